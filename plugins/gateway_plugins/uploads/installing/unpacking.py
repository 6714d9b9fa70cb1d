"""Members of a tar archive become files of a folder."""

import os
import tarfile
from pathlib import Path, PurePosixPath

from gateway_plugins.uploads.installing.messages import Refusal
from gateway_plugins.uploads.installing.reading import PIECE, Source

DEEPEST = 32
LONGEST = 1_024
"""Folders above a member, and bytes of its path, at most."""

BLOCK = 512

_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
}


class _Member(tarfile.TarInfo):
    """A header that is broken, or missing, is an error, and not the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Member":
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == BLOCK and buf.count(0) == BLOCK:  # the end
                raise
            if len(buf) < BLOCK:
                raise Refusal("bad_archive", "the tar archive is truncated") from None
            raise Refusal("bad_archive", f"the tar archive is broken: {error}") from None


HOW = {"bufsize": PIECE, "tarinfo": _Member}


def unpack(source: Source, into: Path, most: int) -> Path:
    """Unpack an archive into a folder; return the folder that has the files.

    That is the one that all files are in, if there is one. Raises Refusal, OSError, TarError.
    """
    count = 0
    with tarfile.open(mode="r|", fileobj=source, **HOW) as tar:  # type: ignore[call-overload]
        for member in tar:
            count += 1
            if count > most:
                text = f"the archive has more than {most} files and folders (uploads.max_members)"
                raise Refusal("too_large", text)
            _add(tar, member, into)
            tar.members = []  # else all are kept
    while source.read(PIECE):
        pass  # what follows the archive is checked by its compression
    return _root(into)


def _add(tar: tarfile.TarFile, member: tarfile.TarInfo, into: Path) -> None:
    name = safe_path(member.name)
    if not member.isreg() and not member.isdir():
        kind = _KINDS.get(member.type, "of an unknown kind")
        raise Refusal("bad_archive", f"`{_shown(member.name)}` is {kind}; only files are accepted")
    path = into / name
    if member.isdir():
        _folder(path, member.name)
        return
    _folder(path.parent, member.name)
    content = tar.extractfile(member)
    assert content is not None  # it is a file
    try:
        written = write_file(content, path)
    except FileExistsError:
        raise Refusal("bad_archive", f"`{_shown(member.name)}` is there twice") from None
    if written != member.size:
        raise Refusal("bad_archive", "the tar archive is truncated")


def _folder(path: Path, name: str) -> None:
    try:
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        text = f"`{_shown(name)}` is there as a file and as a folder"
        raise Refusal("bad_archive", text) from None


def safe_path(name: str) -> PurePosixPath:
    """Return a member's path, relative and without detours. Raises Refusal for all others."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    problem = None
    if name.startswith("/"):
        problem = "is an absolute path"
    elif ".." in parts:
        problem = "leads out of the archive"
    elif not name.isprintable() or "\\" in name:
        problem = "has characters that file names should not have"
    elif (
        len(parts) > DEEPEST
        or len(name.encode()) > LONGEST
        or any(len(part.encode()) > 255 for part in parts)
    ):
        problem = "is too long"
    if problem is not None:
        raise Refusal("bad_archive", f"`{_shown(name)}` {problem}")
    return PurePosixPath(*parts)


def _shown(name: str) -> str:
    return name[:200].encode("unicode_escape").decode()


def write_file(content: Source, path: Path) -> int:
    """Write a new file, and all to the disk; return its size. Raises OSError."""
    size = 0
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    with os.fdopen(fd, "wb", buffering=0) as file:
        while data := content.read(PIECE):
            left = memoryview(data)
            while left:
                left = left[file.write(left) :]
            size += len(data)
            if size % (64 * PIECE) < len(data):
                _write_back(fd)
        _write_back(fd)
        os.fchmod(fd, 0o644)
    return size


def _write_back(fd: int) -> None:
    """Write to the disk, and take no memory from the files that engines read."""
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def _root(folder: Path) -> Path:
    found = list(folder.iterdir())
    return found[0] if len(found) == 1 and found[0].is_dir() else folder
