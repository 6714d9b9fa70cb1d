"""Room on the disk: whether a model fits, and which ones make room for it."""

import os
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path

import msgspec

from gateway_plugins.runtime.loading.uploaded import UPLOADED
from gateway_plugins.runtime.models.records import Record

GB = 1e9


class Disk(msgspec.Struct, frozen=True):
    """The disk with a folder, in bytes."""

    total_bytes: int
    free_bytes: int


def disk_of(folder: Path) -> Disk:
    """Return the disk that has, or will have, a folder. Raises OSError."""
    found = shutil.disk_usage(_existing(folder))
    return Disk(found.total, found.free)


def is_writable(folder: Path) -> bool:
    """Whether this process may write in a folder, or create it."""
    return os.access(_existing(folder), os.W_OK | os.X_OK)


def _existing(folder: Path) -> Path:
    return next((one for one in (folder, *folder.parents) if one.exists()), Path("/"))


def too_large(missing: int, free: int, reserved: int, kept: float, folder: Path) -> str:
    """Say in words that `missing` bytes do not fit; `kept` bytes are to stay free."""
    words = f"it needs {_gb(missing)} more in {folder}, and {_gb(free)} are free there"
    if reserved:
        words += f", of which other downloads get {_gb(reserved)}"
    return f"{words}; {_gb(kept)} stay free (downloads.keep_free_gb)"


def _gb(count: float) -> str:
    return f"{count / GB:.1f} GB" if count >= GB / 10 else f"{count / 1e6:.1f} MB"


def evictable(records: Iterable[Record]) -> list[str]:
    """Return the folders of which all is by this gateway, the longest unused first.

    Reads the disk: somebody else may have put another revision there.
    """
    by_folder: dict[str, list[Record]] = {}
    for record in records:
        by_folder.setdefault(record.folder, []).append(record)
    own = {folder: rows for folder, rows in by_folder.items() if _is_own(folder, rows)}
    return sorted(own, key=lambda folder: max(row.used_at for row in own[folder]))


def _is_own(folder: str, rows: Collection[Record]) -> bool:
    try:
        snapshots = [one for one in Path(folder, "snapshots").iterdir() if one.is_dir()]
    except OSError:
        return False
    is_uploaded = Path(folder, UPLOADED).exists()
    return all(row.fetched for row in rows) and len(snapshots) <= len(rows) and not is_uploaded


def chosen(folders: Iterable[str], records: Iterable[Record], lacking: float) -> list[str]:
    """Return the first of the folders that have `lacking` bytes together; none if all have less."""
    sizes: dict[str, int] = {}
    for record in records:
        sizes[record.folder] = sizes.get(record.folder, 0) + record.size
    found: list[str] = []
    for folder in folders:
        if lacking <= 0:
            break
        found.append(folder)
        lacking -= sizes.get(folder, 0)
    return found if lacking <= 0 else []


def remove(folder: str) -> None:
    """Remove a folder with all that is in it. Raises OSError."""
    shutil.rmtree(folder)
