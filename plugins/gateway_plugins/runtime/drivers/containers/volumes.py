"""Files that a container shares with its host: one file has two paths."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from posixpath import normpath


def outside(path: str, volumes: Sequence[str]) -> str | None:
    """Return where the host has the file or folder that a container with `volumes` has at `path`.

    Return None if it is the container's own. The volume nearest to `path` is decisive; one with a
    name is in no folder that others may use.
    """
    wanted = _absolute(path)
    mounts = [volume.split(":")[:2] for volume in volumes if re.match("[^:]+:/", volume)]
    found = [sides for sides in mounts if wanted.is_relative_to(_absolute(sides[1]))]
    if not found:
        return None
    host, container = max(found, key=lambda sides: len(_absolute(sides[1]).parts))
    if not host.startswith("/"):
        return None
    return str(_absolute(host) / wanted.relative_to(_absolute(container)))


def _absolute(path: str) -> PurePosixPath:
    """Return `path` without `..` and doubled slashes; one that is relative stays so."""
    return PurePosixPath(normpath(f"//{path}" if path.startswith("/") else path))
