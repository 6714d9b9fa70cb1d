"""The URLs of uploads that were begun, so that the same command goes on with them."""

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path


class Remembered:
    """The upload of the file with a digest as a model of a gateway."""

    def __init__(self, url: str, model: str, digest: str, environ: Mapping[str, str]) -> None:
        state = environ.get("XDG_STATE_HOME") or "~/.local/state"
        name = hashlib.sha256("\n".join((url, model, digest)).encode()).hexdigest()
        self._file = Path(state, "gateway", "uploads", name).expanduser()

    def path(self) -> str | None:
        """Return the path of the upload, None if none was begun."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return self._file.read_text().strip() or None
        return None

    def remember(self, path: str) -> None:
        """Keep the path. If it cannot be kept, only this run can go on with the upload."""
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.write_text(path)

    def forget(self) -> None:
        with contextlib.suppress(OSError):
            self._file.unlink()
