"""The folder with the bytes of uploads, each in a file under its id.

A file that ends in `.lock` is that of a process that installs the upload.
"""

import contextlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

ID = re.compile(r"[0-9a-f]{32}")
LOCK = ".lock"


class Folder:
    """`path` is created, with access for this user alone; None: a temporary folder.

    Methods raise OSError.
    """

    def __init__(self, path: Path | None) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="gateway-") if path is None else None
        self.path = Path(self._temporary.name) if path is None else path  # type: ignore[union-attr]
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def file(self, upload_id: str) -> Path:
        """Return the path of the bytes of an upload."""
        return self.path / upload_id

    def create(self, upload_id: str) -> None:
        """Create an empty file, and write the folder's entry to the disk."""
        fd = os.open(self.file(upload_id), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.close(fd)
        self._sync()

    def _sync(self) -> None:
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def delete(self, upload_ids: Iterable[str]) -> None:
        """Delete files; those that are gone already do not matter."""
        for upload_id in upload_ids:
            for path in (self.file(upload_id), self.path / f"{upload_id}{LOCK}"):
                with contextlib.suppress(OSError):
                    path.unlink()

    def all(self) -> list[str]:
        """Return the ids of all uploads that have a file."""
        return [one.name for one in self.path.iterdir() if ID.fullmatch(one.name)]

    def size(self, upload_id: str) -> int:
        """Return how many bytes of an upload there are; 0 if it has just ended."""
        try:
            return self.file(upload_id).stat().st_size
        except FileNotFoundError:
            return 0

    def free(self) -> int:
        """Return the bytes that are free on the disk of the folder."""
        return shutil.disk_usage(self.path).free

    def close(self) -> None:
        """Delete a temporary folder."""
        if self._temporary is not None:
            self._temporary.cleanup()


def new_id() -> str:
    """Return a new id of an upload."""
    return secrets.token_hex(16)
