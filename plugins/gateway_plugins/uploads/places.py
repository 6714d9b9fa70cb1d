"""Where models lie in the cache of the hub, and whose they are.

A model is in `CACHE/models--ORG--NAME/snapshots/COMMIT`, and `refs/main` there names the commit.
Beside them lies the marker of the upload that the model is from: a model with a marker was not
downloaded, and is nobody's to remove but its owner's.
"""

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

MARKER = ".uploaded.json"

_PART = "[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_NAME = re.compile(f"{_PART}(?:/{_PART})?")
_LONGEST_MARKER = 4_096


class Marker(msgspec.Struct, frozen=True):
    """The upload that a model is from. `uploaded_at` is in Unix seconds, `size` in bytes."""

    model: str
    owner: str
    upload: str
    commit: str
    sha256: str
    size: int
    uploaded_at: float
    type: str = "uploaded"


def is_name(text: str) -> bool:
    """Whether a text may be the name of a model, by the rule of the hub."""
    forbidden = "--" in text or ".." in text or text.endswith(".git")
    return bool(_NAME.fullmatch(text)) and not forbidden


def cache_of(environ: Mapping[str, str]) -> Path:
    """Return the cache of the hub, as its tools find it."""
    base = environ.get("XDG_CACHE_HOME") or "~/.cache"
    named = environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE")
    home = environ.get("HF_HOME") or f"{base}/huggingface"
    return Path(named or f"{home}/hub").expanduser().absolute()


def folder_of(cache: Path, model: str) -> Path:
    """Return the folder of a model in a cache."""
    return cache / f"models--{model.replace('/', '--')}"


def marker_of(folder: Path) -> Marker | None:
    """Return the marker in a folder; None if its model is not from an upload. Raises OSError."""
    try:
        with (folder / MARKER).open("rb") as file:
            return msgspec.json.decode(file.read(_LONGEST_MARKER), type=Marker)
    except (FileNotFoundError, NotADirectoryError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def has_model(folder: Path) -> bool:
    """Whether there is a model in a folder. Raises OSError."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return any((folder / "snapshots").iterdir())
    return False


def obstacle(folder: Path, owner: str, replaces: str, upload: str = "") -> str | None:
    """Return why an upload may not replace what is in a folder: `model_exists` or `not_owner`.

    None if it may, or if nothing is there. Raises OSError.
    """
    if not has_model(folder):
        return None
    marker = marker_of(folder)
    if marker is not None and marker.upload == upload:
        return None  # its own, from before the gateway was killed
    if replaces == "any":
        return None
    if marker is None or marker.owner != owner:
        return "not_owner"
    return None if replaces == "own" else "model_exists"


def sync_folder(path: Path) -> None:
    """Write the entries of a folder to the disk. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
