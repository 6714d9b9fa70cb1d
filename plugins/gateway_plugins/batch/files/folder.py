"""The folder with the contents of files, each under its id; unfinished ones end in `.part`."""

import contextlib
import secrets
import tempfile
from collections.abc import Iterable
from pathlib import Path

PART = ".part"


class Folder:
    """`path` is created, with access for this user alone. Raises OSError if that fails."""

    def __init__(self, path: Path | None) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="gateway-") if path is None else None
        self.path = Path(self._temporary.name) if self._temporary is not None else path
        assert self.path is not None
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def content(self, file_id: str) -> Path:
        """Return the path of a file's content."""
        assert self.path is not None
        return self.path / file_id

    def part(self) -> Path:
        """Return a new path to write a content to, before it is renamed to its place."""
        return self.content(f"{secrets.token_hex(12)}{PART}")

    def delete(self, file_ids: Iterable[str]) -> None:
        """Delete contents; those that are gone already do not matter."""
        for file_id in file_ids:
            with contextlib.suppress(OSError):
                self.content(file_id).unlink()

    def close(self) -> None:
        """Delete a temporary folder."""
        if self._temporary is not None:
            self._temporary.cleanup()


def file_id() -> str:
    """Return a new id of a file."""
    return f"file-{secrets.token_hex(12)}"
