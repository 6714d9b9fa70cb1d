"""Verifies and installs one upload: a program of its own, so that it can be killed and limited.

The gateway writes a Job in one line to its standard input, and gets an Event in each line of its
standard output. It ends as soon as its standard input does, so it does not outlive a gateway that
was killed. It imports nothing of the gateway, for a quick start.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import resource
import shutil
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from gateway_plugins.uploads.installing import checking, placing
from gateway_plugins.uploads.installing.messages import (
    Event,
    Installed,
    Job,
    Moved,
    Refusal,
    Refused,
    Verified,
)
from gateway_plugins.uploads.installing.reading import PIECE, Counted, Joined, Source, decompressed
from gateway_plugins.uploads.installing.unpacking import unpack, write_file
from gateway_plugins.uploads.places import folder_of, marker_of

NICE = 19
"""To hash and unpack must not take the processors from the gateway and its engines."""

MEMORY = 1536 * 1024 * 1024
"""Bytes of memory of its own."""

TELL = 0.5
"""Seconds between two reports of progress."""

SMALL = 64 * 1024 * 1024
"""Bytes to which even a small archive may be unpacked."""

BEGINNING = 512
STOPPED = 3

STAGING = ".uploading-"
"""Beginning of the name of a folder in the cache in which a model is unpacked."""

_FILENAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,120}")


class Installation:
    """One job."""

    def __init__(self, job: Job, send: Callable[[Event], None]) -> None:
        self._job = job
        self._send = send
        self._paths = [Path(one) for one in job.files]
        self._size = sum(path.stat().st_size for path in self._paths)
        self._staging = Path(job.cache, f"{STAGING}{job.id}")
        self._told = 0.0

    def run(self) -> Installed:
        """Return what is in its place then. Raises Refusal, OSError, TarError."""
        placing.check_obstacle(self._job)
        digest, beginning = self._digest()
        if self._job.expected not in ("", digest):
            raise Refusal(
                "wrong_sha256",
                f"the SHA-256 of what has arrived is {digest}, and not {self._job.expected}",
            )
        self._send(Verified(digest))
        self._check_room(beginning)
        shutil.rmtree(self._staging, ignore_errors=True)  # the gateway was killed before
        try:
            self._staging.mkdir(mode=0o700, parents=True)
            root, is_single = self._unpack(beginning)
            size = checking.check(root, is_single=is_single)
            commit = placing.place(root, self._job, digest, size)
            return Installed(commit, size, digest)
        finally:
            self.clear()

    def clear(self) -> None:
        """Remove what is not in its place."""
        shutil.rmtree(self._staging, ignore_errors=True)

    def _digest(self) -> tuple[str, bytes]:
        """Return the SHA-256 and the beginning of all bytes."""
        digest, beginning = hashlib.sha256(), b""
        with contextlib.closing(Joined(self._paths, self._moved)) as source:
            while data := source.read(PIECE):
                digest.update(data)
                if len(beginning) < BEGINNING:
                    beginning += data[:BEGINNING]
        return digest.hexdigest(), beginning

    def _check_room(self, beginning: bytes) -> None:
        cache = Path(self._job.cache)
        cache.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(cache).free - self._job.keep_free
        if self._size > free:
            text = f"the model has at least {self._size} bytes, and {max(free, 0)} are free in"
            raise Refusal("disk_full", f"{text} {cache}")

    def _unpack(self, beginning: bytes) -> tuple[Path, bool]:
        """Return the folder with the files, and whether the upload was a single file."""
        with contextlib.closing(Joined(self._paths, self._moved)) as source:
            return self._unpack_from(source, beginning)

    def _unpack_from(self, source: Source, beginning: bytes) -> tuple[Path, bool]:
        ending = _single(beginning)
        if ending is not None:
            folder = self._staging / "files"
            folder.mkdir()
            write_file(source, folder / _filename(self._job.filename, ending))
            return folder, True
        limit = min(max(int(self._size * self._job.max_ratio), SMALL), self._job.max_unpacked_bytes)
        contents = Counted(decompressed(source, beginning), limit)
        return unpack(contents, self._staging, self._job.max_members), False

    def _moved(self, done: int) -> None:
        now = time.monotonic()
        if now - self._told > TELL:
            self._told = now
            self._send(Moved(done / max(self._size, 1)))
            self._check_free()

    def _check_free(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            if shutil.disk_usage(self._staging).free < self._job.keep_free:
                raise OSError(errno.ENOSPC, "No space left (uploads.keep_free_gb)")


def _single(beginning: bytes) -> str | None:
    """Return the ending of a single file of weights; None: this is an archive."""
    if beginning.startswith(b"GGUF"):
        return checking.GGUF
    length = int.from_bytes(beginning[:8], "little")
    is_safetensors = beginning[8:9] == b"{" and 0 < length <= checking.LARGEST_HEADER
    return checking.SAFETENSORS if is_safetensors else None


def _filename(given: str, ending: str) -> str:
    usable = _FILENAME.fullmatch(given) and given.endswith(ending)
    return given if usable else f"model{ending}"


def refused(error: Exception) -> Refused:
    """Return why an installation has failed."""
    if isinstance(error, Refusal):
        return Refused(error.code, error.text)
    if isinstance(error, MemoryError):
        return Refused("bad_archive", "the archive needs too much memory")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Refused("disk_full", f"there is no room on the disk of the models: {error.strerror}")
    if isinstance(error, tarfile.TarError):
        return Refused(
            "bad_archive", f"this is no tar archive and no weights, or truncated: {error}"[:300]
        )
    return Refused("install_failed", f"{type(error).__name__}: {error}"[:300])


def limit() -> None:
    """Take little of the machine, whatever the bytes are."""
    os.nice(NICE)
    os.umask(0o022)
    for kind, most in ((resource.RLIMIT_DATA, MEMORY), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(kind)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, hard))


def main() -> None:
    """Do the job of the standard input."""
    limit()
    events = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever else is printed is no event
    job = msgspec.json.decode(sys.stdin.buffer.readline(), type=Job)
    lock = os.open(job.lock, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)  # one before may not have ended yet
    threading.Thread(target=_follow, daemon=True).start()

    def send(event: Event) -> None:
        events.write(msgspec.json.encode(event) + b"\n")

    try:
        if placing.is_placed(job):
            send(_as_placed(job))
        else:
            send(Installation(job, send).run())
    except Exception as error:  # noqa: BLE001  the gateway is told each
        send(refused(error))
    os._exit(0)


def _as_placed(job: Job) -> Installed:
    marker = marker_of(folder_of(Path(job.cache), job.model))
    assert marker is not None  # the model is in its place
    return Installed(marker.commit, marker.size, marker.sha256)


def _follow() -> None:
    """End with the standard input. A later run removes what is left then."""
    sys.stdin.buffer.read()
    os._exit(STOPPED)


if __name__ == "__main__":
    main()
