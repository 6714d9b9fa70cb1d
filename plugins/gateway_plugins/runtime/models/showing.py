"""What operators see of the models on disk, and callers of downloads."""

import os
from functools import partial
from pathlib import Path, PurePosixPath
from time import monotonic

import msgspec

from gateway_plugins.runtime.drivers.threads import in_thread
from gateway_plugins.runtime.holding.errors import Downloaded
from gateway_plugins.runtime.holding.errors import Progress as ColdStart
from gateway_plugins.runtime.loading.snapshots import Place, here, path_of, place_of
from gateway_plugins.runtime.memory.known import Memory
from gateway_plugins.runtime.models.inspecting import inspect
from gateway_plugins.runtime.models.item import Item, Progress
from gateway_plugins.runtime.models.room import Disk, disk_of
from gateway_plugins.runtime.models.shelf import ENDED_ON_DISK, Shelf
from gateway_plugins.runtime.options import Model

UNKNOWN = 60.0
"""Seconds that a download is taken to last while nothing tells."""


class DownloadInfo(msgspec.Struct, frozen=True):
    """A download for `elapsed` seconds; `total_bytes` and `remaining` are None until known."""

    done_bytes: int
    total_bytes: int | None
    elapsed: float
    remaining: float | None


class DiskModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model and its files. Times are Unix seconds, but `retry_in`: seconds until a new try.

    `downloaded_by`: the gateway, the engine, or None for a folder. `folder` and `revision` are
    those of the snapshot as the gateway sees it, None: it sees none. `fetched`: the gateway has
    downloaded the model. `reason` and `text` are of the latest download that failed.
    """

    path: str
    downloaded_by: str | None
    folder: str | None
    revision: str | None
    on_disk: bool
    bytes: int
    fetched: bool = False
    pinned: bool = False
    used_at: float | None = None
    download: DownloadInfo | None = None
    reason: str | None = None
    text: str | None = None
    retry_in: float = 0.0


class OtherModel(msgspec.Struct, frozen=True):
    """A model that the gateway has downloaded, and that the configuration does not have now."""

    path: str
    folder: str
    bytes: int
    used_at: float


class DiskInfo(msgspec.Struct, frozen=True):
    """All models by name, and the disks by the folders of the hub's caches."""

    models: dict[str, DiskModel]
    others: list[OtherModel]
    disks: dict[str, Disk]


class _Seen(msgspec.Struct, frozen=True):
    """What the disk says of a model; `is_at_hub`: it is no folder, and no file."""

    folder: Path | None
    revision: str | None
    on_disk: bool
    size: int
    is_at_hub: bool = False


def cold_start(download: Progress, load: float) -> ColdStart:
    """Return what callers are told of a model that is downloaded, and then loads in `load` s."""
    return ColdStart(
        phase="downloading",
        elapsed=monotonic() - download.since,
        remaining=load + (UNKNOWN if download.remaining is None else download.remaining),
        download=Downloaded(download.done, download.total),
    )


def download_info(progress: Progress | None) -> DownloadInfo | None:
    if progress is None:
        return None
    elapsed = monotonic() - progress.since
    return DownloadInfo(progress.done, progress.total or None, elapsed, progress.remaining)


async def disk_info(shelf: Shelf, memory: Memory) -> DiskInfo:
    """Return what there is now. Reads the disk, out of the event loop."""
    models: dict[str, DiskModel] = {}
    for item in shelf.items():
        if item.place is not None and item.progress is None:
            await shelf.look_at(item)
        seen = await in_thread(partial(_look, item.model))
        models[item.model.name] = _model(item, seen, shelf, memory)
    caches = {one.place.here.parent for one in shelf.items() if one.place and one.place.here}
    disks = {str(cache): await in_thread(partial(disk_of, cache)) for cache in sorted(caches)}
    return DiskInfo(models, _others(shelf), disks)


def _model(item: Item, seen: _Seen, shelf: Shelf, memory: Memory) -> DiskModel:
    model, known = item.model, memory.of(item.model.name)
    record = None if item.place is None else shelf.records.of(item.place)
    has_failed = known.reason in ENDED_ON_DISK
    return DiskModel(
        path=path_of(model),
        downloaded_by=_downloader(item, seen),
        folder=None if seen.folder is None else str(seen.folder),
        revision=seen.revision,
        on_disk=seen.on_disk if item.place is None else bool(item.is_there),
        bytes=seen.size,
        fetched=record is not None and record.fetched,
        pinned=model.pinned,
        used_at=None if record is None else record.used_at,
        download=download_info(shelf.progress(model.name)),
        reason=known.reason if has_failed else None,
        text=known.text if has_failed else None,
        retry_in=memory.seconds_barred(model.name) if has_failed else 0.0,
    )


def _downloader(item: Item, seen: _Seen) -> str | None:
    if item.place is not None:
        return "gateway"
    return "engine" if seen.is_at_hub and item.model.url is None else None


def _look(model: Model) -> _Seen:
    try:
        return _seen(model)
    except OSError:  # this process may not read it
        return _Seen(None, None, False, 0)


def _seen(model: Model) -> _Seen:
    place = place_of(model, os.environ)
    if place is not None:
        return _at_the_hub(place)
    folder = here(PurePosixPath(path_of(model)), model)
    if folder is not None and folder.is_file():  # a .gguf
        return _Seen(folder, None, True, folder.stat().st_size)
    files = None if folder is None else inspect(folder)
    return _Seen(folder, None, files is not None and files.whole, files.size if files else 0)


def _at_the_hub(place: Place) -> _Seen:
    snapshot = place.snapshot
    if snapshot is None or not snapshot.is_dir():
        return _Seen(None, None, False, 0, is_at_hub=True)
    files = inspect(snapshot)
    return _Seen(snapshot, snapshot.name, files.whole, files.size, is_at_hub=True)


def _others(shelf: Shelf) -> list[OtherModel]:
    here = {str(item.place.here) for item in shelf.items() if item.place is not None}
    return [
        OtherModel(one.repository, one.folder, one.size, one.used_at)
        for one in shelf.records.all
        if one.fetched and one.folder not in here
    ]
