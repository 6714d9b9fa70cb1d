"""The folder with the contents of files, each under its id; unfinished ones end in `.part`.

Several processes may share the folder. Each holds an exclusive `flock` on a file of its own there,
which ends with the process however it ends, and the names of its unfinished contents begin as that
of its lock. So the unfinished contents of ended processes can be told from those that are written
now.
"""

import contextlib
import os
import secrets
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from gateway_plugins.batch.locks import delete_if_free, hold, release

PART = ".part"
LOCK = ".lock"


class Folder:
    """`path` is created, with access for this user alone; None: a temporary folder.

    Raises OSError if there can be no folder, or nothing can be written to it.
    """

    def __init__(self, path: Path | None) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="gateway-") if path is None else None
        self.path = Path(self._temporary.name) if path is None else path  # type: ignore[union-attr]
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._token = secrets.token_hex(8)
        self._lock = self.path / f"{self._token}{LOCK}"
        self._fd = hold(self._lock)

    def content(self, file_id: str) -> Path:
        """Return the path of a file's content."""
        return self.path / file_id

    def part(self) -> Path:
        """Return a new path to write a content to, before it is renamed to its place."""
        return self.path / f"{self._token}-{secrets.token_hex(8)}{PART}"

    def delete(self, file_ids: Iterable[str]) -> None:
        """Delete contents; those that are gone already do not matter."""
        for file_id in file_ids:
            _unlink(self.content(file_id))

    def sync(self) -> None:
        """Write the folder's own entries to the disk. Raises OSError."""
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def delete_leftovers(self) -> None:
        """Delete what ended processes have left unfinished."""
        parts = self._with_ending(PART)  # before the locks: whoever writes one has locked before
        for path in self._with_ending(LOCK):
            if path != self._lock:
                delete_if_free(path)
        living = {path.stem for path in self._with_ending(LOCK)}
        for path in parts:
            if path.stem.partition("-")[0] not in living:
                _unlink(path)

    def _with_ending(self, ending: str) -> list[Path]:
        return list(self.path.glob(f"*{ending}"))

    def close(self) -> None:
        """Release the lock; delete a temporary folder."""
        release(self._lock, self._fd)
        if self._temporary is not None:
            self._temporary.cleanup()


def file_id() -> str:
    """Return a new id of a file. Ids sort by the time of their creation."""
    return f"file-{time.time_ns():016x}{secrets.token_hex(4)}"


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
