"""Removes models that the gateway has downloaded, so that there is room for others."""

import contextlib
import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from pathlib import Path

from gateway import StorageError
from gateway_plugins.runtime.drivers.threads import in_thread
from gateway_plugins.runtime.loading.snapshots import path_of
from gateway_plugins.runtime.models import room
from gateway_plugins.runtime.models.inspecting import Files
from gateway_plugins.runtime.models.item import Item
from gateway_plugins.runtime.models.records import Records
from gateway_plugins.runtime.options import Model

log = logging.getLogger("gateway.runtime")


class Evicting:
    """`in_use` returns the models that may not be removed now, and `items` all that are known."""

    def __init__(
        self,
        records: Records,
        in_use: Callable[[], Collection[str]],
        items: Callable[[], Iterable[Item]],
    ) -> None:
        self._records = records
        self._in_use = in_use
        self._items = items

    async def evict(self, cache: Path, lacking: float) -> None:
        """Remove models from a cache, the longest unused first, until so many bytes are free.

        Removes none if that would not be enough.
        """
        own = await in_thread(partial(room.evictable, self._records.all))
        kept = set(self._kept())
        folders = [one for one in own if Path(one).parent == cache and one not in kept]
        folders = room.chosen(folders, self._records.all, lacking)
        for item in self._items():  # no load may begin from here on
            if item.place is not None and str(item.place.here) in folders:
                item.is_there, item.files, item.trusted = False, Files(), False
        for folder in folders:
            await self._remove(folder)

    def _kept(self) -> Iterator[str]:
        """Yield the folders that stay."""
        in_use, items = self._in_use(), [one for one in self._items() if one.place is not None]
        for item in items:
            assert item.place is not None
            others = [one.model for one in self._items() if one is not item]
            is_shared = any(_names(one, item.place.repository) for one in others)
            is_busy = item.model.name in in_use or item.progress is not None
            may_wake = item.model.sleep_level is not None
            if is_shared or is_busy or may_wake or item.model.pinned:
                yield str(item.place.here)

    async def _remove(self, folder: str) -> None:
        log.warning("%s is removed: another model needs the room", folder)
        with contextlib.suppress(StorageError):  # the storage reports it
            await self._records.removing(folder)
        try:
            await in_thread(partial(room.remove, folder))
        except OSError as error:
            log.warning("%s cannot be removed: %s", folder, error)
            return
        with contextlib.suppress(StorageError):
            await self._records.removed(folder)


def _names(model: Model, repository: str) -> bool:
    """Whether a model's engine is told to load the repository, for itself or beside its own."""
    given = (model.arguments,) if isinstance(model.arguments, str) else model.arguments
    texts = (*given, *(model.command or ()), *model.environment.values())
    return path_of(model) == repository or any(repository in text for text in texts)
