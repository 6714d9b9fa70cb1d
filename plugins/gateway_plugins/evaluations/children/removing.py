"""Deletes folders that evaluations have filled, however deep they are."""

import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from uuid import uuid4

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def remove(place: Path) -> None:
    """Delete a folder and all that is in it, as far as that is permitted; leads nowhere else.

    Three descriptors are open at a time, and no path is long: each folder is moved up first.
    """
    token = uuid4().hex
    names = (f".removed-{token}-{number}" for number in count())
    try:
        top = os.open(place, FOLDER)
    except OSError:  # there is none, or it is no folder
        with suppress(OSError):
            place.unlink()
        return
    try:
        left = _emptied(top, top, names)
        while left:
            left += _removed(left.pop(), top, names)
    finally:
        os.close(top)
    with suppress(OSError):
        place.rmdir()


def _removed(name: str, top: int, names: Iterator[str]) -> list[str]:
    """Delete a folder of `top`; return the names of those that were in it, which are there now."""
    found: list[str] = []
    with suppress(OSError):
        folder = _opened(name, top)
        try:
            os.fchmod(folder, 0o700)
            found = _emptied(folder, top, names)
        finally:
            os.close(folder)
        os.rmdir(name, dir_fd=top)
    return found


def _opened(name: str, top: int) -> int:
    try:
        return os.open(name, FOLDER, dir_fd=top)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=top)
        return os.open(name, FOLDER, dir_fd=top)


def _emptied(folder: int, top: int, names: Iterator[str]) -> list[str]:
    """Delete the files of a folder and move its folders to `top`; return their names there."""
    moved = []
    for name in os.listdir(folder):
        try:
            os.unlink(name, dir_fd=folder)
        except IsADirectoryError:
            new = next(names)
            with suppress(OSError):
                os.rename(name, new, src_dir_fd=folder, dst_dir_fd=top)
                moved.append(new)
        except OSError:
            continue
    return moved
