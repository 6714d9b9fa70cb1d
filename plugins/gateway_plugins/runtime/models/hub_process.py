"""Downloads one model from the hub: a program of its own, so that it can be killed.

Run as a file. The gateway writes a Job in one line to its standard input, and gets an Event in each
line of its standard output: the Plan first. After that the program waits until it is told `go`. It
ends as soon as its standard input does, so it does not outlive a gateway that was killed.

The module imports nothing of the gateway, for a quick start, and the library of the hub only if it
is run: the gateway reads the events with the types below.
"""

import contextlib
import errno
import glob
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import msgspec

PREFERRED = ((".safetensors",), (".bin", ".pt", ".pth"))
"""Endings of weights. The first that a repository has at its top are downloaded."""

WEIGHTS = (
    *(".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".ot"),
    *(".onnx", ".onnx_data", ".tflite", ".mlmodel", ".nemo", ".llamafile", ".pkl"),
)
"""Endings of weights in all formats."""

OTHER_FORMATS = ("original/", "metal/", "onnx/", "openvino/", "coreml/", "gguf/")
"""Folders with the same weights in formats that vLLM and SGLang do not load."""

LOOK = 0.5
"""Seconds between two looks at how much is there."""

ABANDONED = 3_600.0
"""Seconds without a byte after which a partial file is nobody's any more."""

LONGEST_TEXT = 400

NICE = 10
"""To hash what comes must not take the processors from the gateway and its engines."""

STOPPED = 3
"""Exit status of a download that was stopped."""

_PARTIAL = re.compile(r".+\.[0-9a-f]{8}\.incomplete")
"""Partial files that are never resumed: their names are those of one try."""

Reason = Literal[
    "access_denied",
    "auth_required",
    "disk_full",
    "download_failed",
    "model_not_found",
]


class Job(msgspec.Struct, frozen=True):
    """What to download: a revision of a repository into the folder `cache`."""

    repository: str
    revision: str
    cache: str
    folder: str
    patterns: tuple[str, ...] = ()


class Plan(msgspec.Struct, frozen=True, tag=True):
    """What the hub has: the bytes of all files that are needed, and of those that are missing."""

    commit: str
    files: int
    size: int
    missing: int


class Moved(msgspec.Struct, frozen=True, tag=True):
    """So many bytes of the plan are there."""

    done: int


class Done(msgspec.Struct, frozen=True, tag=True):
    """All files are there."""

    commit: str


class Refused(msgspec.Struct, frozen=True, tag=True):
    """There will be no more, because of `reason`; `text` is for people, without secrets."""

    reason: Reason
    text: str


Event = Plan | Moved | Done | Refused


class ManyGguf(Exception):
    """The repository has the model in several sizes, of which an engine loads one."""


class File(msgspec.Struct, frozen=True):
    """A file at the hub; `blob` is the name of its content in the cache."""

    name: str
    size: int
    blob: str


def selected(names: Iterable[str], patterns: Iterable[str] = ()) -> list[str]:
    """Return the names of the files to download. Raises ManyGguf.

    `patterns` are as in a shell, and `*` matches a slash, too; none: the weights in one format, and
    all other files.
    """
    names, patterns = list(names), list(patterns)
    if patterns:
        return [name for name in names if any(fnmatchcase(name, one) for one in patterns)]
    names = [name for name in names if not name.startswith((".", *OTHER_FORMATS))]
    top = [name for name in names if "/" not in name]
    for endings in PREFERRED:
        if any(name.endswith(endings) for name in top):
            return [one for one in names if one.endswith(endings) or not one.endswith(WEIGHTS)]
    if sum(name.endswith(".gguf") for name in names) > 1:
        raise ManyGguf("it has several .gguf files, and no other weights; name one in `files`")
    return names


class Download:
    """One job. Progress is read from the disk: the library tells it in other ways each year."""

    def __init__(self, job: Job, send: Callable[[Event], None]) -> None:
        self._job = job
        self._send = send
        self._blobs = Path(job.folder, "blobs")
        self._before = self._partial()
        self.token: str | None = None

    def run(self, allowed: threading.Event) -> None:
        import huggingface_hub

        self.token = huggingface_hub.get_token()
        self._clear()
        commit, files = self._list(huggingface_hub.HfApi())
        missing = sum(file.size for file in files if not self._has(commit, file))
        size = sum(file.size for file in files)
        self._send(Plan(commit, len(files), size, missing))
        allowed.wait()
        threading.Thread(target=self._watch, args=(size, size - missing), daemon=True).start()
        path = huggingface_hub.snapshot_download(
            self._job.repository,
            revision=self._job.revision,
            cache_dir=self._job.cache,
            allow_patterns=[glob.escape(file.name) for file in files],
        )
        self._check(Path(path), commit, files)
        self._send(Done(commit))

    def stop(self) -> None:
        """Remove what no later try resumes."""
        for path in self._partial() - self._before:
            path.unlink(missing_ok=True)

    def _list(self, api: Any) -> tuple[str, list[File]]:
        job = self._job
        found = api.model_info(job.repository, revision=job.revision, files_metadata=True)
        siblings = {one.rfilename: one for one in found.siblings or ()}
        names = selected(siblings, job.patterns)
        return str(found.sha), [_file(siblings[name]) for name in names]

    def _has(self, commit: str, file: File) -> bool:
        link = Path(self._job.folder, "snapshots", commit, file.name)
        places = [link, self._blobs / file.blob] if file.blob else [link]
        return any(one.is_file() and one.stat().st_size == file.size for one in places)

    def _check(self, path: Path, commit: str, files: list[File]) -> None:
        """Raise if the library has returned less than the plan: it does, if the hub goes away."""
        if path.name != commit:
            raise ConnectionError("the model has changed at the hub meanwhile")
        lost = [file.name for file in files if not (path / file.name).is_file()]
        if lost:
            raise ConnectionError(f"{len(lost)} files did not come, such as {lost[0]}")

    def _clear(self) -> None:
        """Remove partial files that processes which were killed have left."""
        for path in self._partial():
            with contextlib.suppress(FileNotFoundError):  # it was just moved
                if time.time() - path.stat().st_mtime > ABANDONED:
                    path.unlink()

    def _partial(self) -> set[Path]:
        return {path for path in self._blobs.glob("*.incomplete") if _PARTIAL.match(path.name)}

    def _watch(self, size: int, present: int) -> None:
        began, latest = self._on_disk(), present
        while True:
            time.sleep(LOOK)
            done = max(present, min(size, present + self._on_disk() - began))
            if done != latest:
                latest = done
                self._send(Moved(done))

    def _on_disk(self) -> int:
        total = 0
        for path in self._blobs.glob("*"):
            with contextlib.suppress(FileNotFoundError):  # it was just moved
                found = path.stat()
                total += min(found.st_size, found.st_blocks * 512)
        return total


def _file(sibling: Any) -> File:
    blob = sibling.lfs.sha256 if sibling.lfs is not None else sibling.blob_id
    return File(sibling.rfilename, sibling.size or 0, blob or "")


def refusal(error: BaseException, token: str | None) -> Refused:
    """Return why a download has failed; `token` is in none of the texts."""
    chain = list(_chain(error))
    found = (reason for one in chain if (reason := _reason(one, token)) is not None)
    # The library wraps what the hub has said in errors of its own, which say less.
    text = re.sub(r"\s+", " ", str(chain[-1])).strip() or type(chain[-1]).__name__
    text = re.sub(r"(https?://[^\s?]+)\?[^\s'\"]+", r"\1", text)  # links may be signed
    text = text.partition(" For more ")[0]
    if token:
        text = text.replace(token, "***")
    return Refused(next(found, "download_failed"), text[:LONGEST_TEXT])


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors that have caused one another, as far as they are the library's own."""
    one: BaseException | None = error
    while one is not None:
        yield one
        one = one.__cause__ if _is_of_the_library(one.__cause__) else None


def _is_of_the_library(error: BaseException | None) -> bool:
    return type(error).__module__.startswith("huggingface_hub")


def _reason(error: BaseException, token: str | None) -> Reason | None:
    if isinstance(error, ManyGguf):
        return "model_not_found"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "disk_full"
    names = {kind.__name__ for kind in type(error).__mro__}
    if "GatedRepoError" in names:
        return "auth_required" if token is None else "access_denied"
    if names & {"RevisionNotFoundError", "HFValidationError"}:
        return "model_not_found"
    status = getattr(getattr(error, "response", None), "status_code", None)
    by_status: dict[object, Reason] = {
        401: "auth_required",
        403: "access_denied",
        404: "model_not_found",
    }
    return by_status.get(status)


def main() -> None:
    """Do the job of the standard input."""
    os.nice(NICE)
    events = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever else is printed is no event
    job = msgspec.json.decode(sys.stdin.buffer.readline(), type=Job)
    lock = threading.Lock()

    def send(event: Event) -> None:
        with lock:
            events.write(msgspec.json.encode(event) + b"\n")

    download, allowed = Download(job, send), threading.Event()
    threading.Thread(target=_follow, args=(download, allowed), daemon=True).start()
    try:
        download.run(allowed)
    except Exception as error:  # noqa: BLE001  the gateway is told each
        send(refusal(error, download.token))
    os._exit(0)  # threads of the library may still wait for the hub


def _follow(download: Download, allowed: threading.Event) -> None:
    """Let the download begin at the next line, and end it with the standard input."""
    if sys.stdin.buffer.readline():
        allowed.set()
        sys.stdin.buffer.readline()
    download.stop()
    os._exit(STOPPED)


if __name__ == "__main__":
    main()
