"""Which snapshot an engine loads, and whether somebody has uploaded it; see docs/uploads.md."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import msgspec
from msgspec.structs import replace

from gateway_plugins.runtime.loading.snapshots import here, path_of, place_of
from gateway_plugins.runtime.options import Model

UPLOADED = ".uploaded.json"
"""Is in the folder of a model that somebody has uploaded."""

SNAPSHOTS, MODELS = "snapshots", "models--"

_LONGEST_MARKER = 4_096


class _Marker(msgspec.Struct):
    uploaded_at: float


def snapshot_of(model: Model, environ: Mapping[str, str]) -> Path | None:
    """Return the folder in the hub's cache that the engine of a model loads, all links followed.

    None: it loads none there, or none that this process can see. The folder may be missing.
    `environ` is the gateway's environment. Reads the disk.
    """
    if model.url is not None:
        return None
    try:
        place = place_of(model, environ)
        path = here(PurePosixPath(path_of(model)), model) if place is None else place.snapshot
        return None if path is None else _snapshot_with(path)
    except (OSError, RuntimeError, ValueError):  # a path that nobody can follow
        return None


def _snapshot_with(path: Path) -> Path | None:
    # A file may be a link to its content, which is in no snapshot.
    for found in (path.resolve(), path.parent.resolve() / path.name):
        for one in (found, *found.parents):
            if _is_snapshot(one.parts):
                return one
    return None


def _is_snapshot(parts: tuple[str, ...]) -> bool:
    return len(parts) > 2 and parts[-2] == SNAPSHOTS and parts[-3].startswith(MODELS)


def exact(model: Model) -> Model:
    """Return the model with the path of its snapshot, if its own path leads there by a name.

    An engine that gets `.../snapshots/main` might load another snapshot than the one that is held
    for it. Reads the disk.
    """
    parts = PurePosixPath(path_of(model)).parts
    end = next((at for at in range(len(parts) + 1) if _is_snapshot(parts[:at])), None)
    if end is None:
        return model
    named = PurePosixPath(*parts[:end])
    try:
        seen = here(named, model)
        target = None if seen is None else seen.readlink()
    except (OSError, ValueError):  # no link
        return model
    if target is None or len(target.parts) != 1 or target.name == "":
        return model
    return replace(model, path=str(named.with_name(target.name).joinpath(*parts[end:])))


def uploaded_at(model: Model, environ: Mapping[str, str]) -> float | None:
    """Return when the model of an engine was uploaded, in Unix seconds; None: it was not.

    `environ` is the gateway's environment. Reads the disk.
    """
    snapshot = snapshot_of(model, environ)
    if snapshot is None:
        return None
    try:
        with (snapshot.parent.parent / UPLOADED).open("rb") as file:
            return msgspec.json.decode(file.read(_LONGEST_MARKER), type=_Marker).uploaded_at
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
