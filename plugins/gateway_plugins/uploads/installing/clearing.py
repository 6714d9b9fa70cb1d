"""Removes models that uploads have replaced, once no engine has them.

Whoever has a model in use holds a shared `flock` on the folder of its snapshot.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from gateway_plugins.uploads.installing.program import STAGING
from gateway_plugins.uploads.places import marker_of

INCOMPLETE = ".incomplete"


def clear(cache: Path, before: float) -> None:
    """Remove what was replaced before a time, in Unix seconds. Raises OSError.

    Snapshots that a name in `refs` leads to stay: they are of other revisions.
    """
    for folder in cache.glob("models--*"):
        marker = marker_of(folder)
        if marker is not None and marker.uploaded_at <= before:
            _clear_folder(folder, marker.commit, marker.uploaded_at)


def _clear_folder(folder: Path, commit: str, uploaded_at: float) -> None:
    kept = {commit, *_named(folder / "refs")}
    for snapshot in list((folder / "snapshots").iterdir()):
        if snapshot.name not in kept and snapshot.is_dir() and not snapshot.is_symlink():
            _remove(snapshot)
    _clear_blobs(folder, uploaded_at)


def _named(refs: Path) -> Iterator[str]:
    """Yield the commits that names lead to."""
    for ref in refs.rglob("*"):
        if ref.is_file():
            yield ref.read_text(errors="replace").strip()


def _remove(snapshot: Path) -> None:
    """Remove a snapshot unless an engine has it."""
    fd = os.open(snapshot, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    else:
        shutil.rmtree(snapshot)
    finally:
        os.close(fd)


def _clear_blobs(folder: Path, uploaded_at: float) -> None:
    """Remove the contents of downloaded snapshots that are gone."""
    blobs = folder / "blobs"
    used = {str(path) for path in _linked((folder / "snapshots").rglob("*"))}
    for blob in blobs.glob("*"):
        is_old = blob.stat().st_mtime < uploaded_at and blob.suffix != INCOMPLETE
        if is_old and str(blob.resolve()) not in used:
            blob.unlink()


def _linked(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_symlink():
            with contextlib.suppress(OSError):
                yield path.resolve()


def clear_staging(cache: Path) -> None:
    """Remove what programs that were killed have unpacked. Raises nothing."""
    for path in cache.glob(f"{STAGING}*"):
        shutil.rmtree(path, ignore_errors=True)
