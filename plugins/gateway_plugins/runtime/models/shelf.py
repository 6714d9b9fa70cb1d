"""The models that the gateway keeps on disk: one task looks at them, and downloads what is missing.

A model that is missing may not be loaded; all else goes on meanwhile. Any number of wishes for a
model causes one download.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from time import monotonic

from gateway import Host, StorageError
from gateway_plugins.runtime.drivers.threads import in_thread
from gateway_plugins.runtime.finishing import Keeping
from gateway_plugins.runtime.loading.engines import secrets_of
from gateway_plugins.runtime.loading.failures import failure
from gateway_plugins.runtime.loading.snapshots import Place
from gateway_plugins.runtime.loading.uploaded import uploaded_at
from gateway_plugins.runtime.memory.known import Memory
from gateway_plugins.runtime.models import room
from gateway_plugins.runtime.models.choosing import place_to_fill
from gateway_plugins.runtime.models.evicting import Evicting
from gateway_plugins.runtime.models.fetching import Stopped, environment_of, fetch
from gateway_plugins.runtime.models.hub_process import Job, Plan, Refused
from gateway_plugins.runtime.models.inspecting import Files, inspect
from gateway_plugins.runtime.models.item import Item, Progress
from gateway_plugins.runtime.models.records import Records
from gateway_plugins.runtime.options import Model, Options
from gateway_plugins.runtime.report import Tally

log = logging.getLogger("gateway.runtime")

LOOK = 1.0
"""Seconds between two looks at what is wanted, if nothing happens."""

AGAIN = 5.0
"""Seconds after which the disk is looked at again for a model that is wanted."""

ENDED_ON_DISK = frozenset(
    (
        *("access_denied", "auth_required", "model_not_found"),
        *("disk_full", "download_failed"),
    )
)
"""Reasons of downloads that failed. They count no more once the model is on the disk."""


class Shelf:
    """The models of one gateway.

    `wishes` returns the models that are wanted, the most urgent first, and `in_use` those that may
    not be removed. `told` is called with each model of which there is news.
    """

    def __init__(
        self,
        gateway: Host,
        options: Options,
        memory: Memory,
        tally: Tally,
        keeping: Keeping,
        *,
        wishes: Callable[[], Sequence[str]],
        in_use: Callable[[], Collection[str]],
        told: Callable[[str], None],
    ) -> None:
        self._gateway = gateway
        self._memory = memory
        self._tally = tally
        self._keeping = keeping
        self._wishes = wishes
        self._told = told
        self.records = Records(gateway.storage)
        self._evicting = Evicting(self.records, in_use, self.items)
        self._known: dict[str, Item] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._wanted = asyncio.Event()
        self.set_options(options)

    def set_options(self, options: Options) -> None:
        """Follow a reload: what is known of models that have not changed is kept."""
        self._options = options
        before = self._known
        self._known = {}
        for model in options.models:
            kept = before.get(model.name)
            same = kept is not None and kept.model == model
            self._known[model.name] = kept if kept is not None and same else Item(model)
        for name, item in before.items():
            if item.task is not None and item is not self._known.get(name):
                item.task.cancel()
        self.wake()

    def items(self) -> Iterable[Item]:
        """Return all models."""
        return list(self._known.values())

    def wake(self) -> None:
        """Look at once."""
        self._wanted.set()

    def is_ready(self, name: str) -> bool:
        """Whether the model may be loaded: it is on the disk, or the engine sees to that."""
        item = self._known.get(name)
        return item is None or bool(item.is_there)

    def progress(self, name: str) -> Progress | None:
        """Return the download of a model that is under way."""
        item = self._known.get(name)
        if item is None or item.place is None:
            return None
        same = self._at(item.place)
        return next((one.progress for one in same if one.progress is not None), None)

    def used(self, name: str) -> None:
        """An engine has loaded the model, or is about to end."""
        item = self._known.get(name)
        if item is not None and item.place is not None:
            self._keeping.keep(self.records.used(item.place))

    # the task

    async def read(self) -> None:
        """Look at all models. Raises StorageError."""
        await self.records.read()
        for item in self.items():
            await self.look_at(item)

    async def run(self) -> None:
        """Download what is wanted and missing, until cancelled; nothing of it runs on then."""
        try:
            while True:
                self._wanted.clear()
                try:
                    await self._look()
                except Exception:
                    log.exception("the models on disk cannot be looked at now")
                    await asyncio.sleep(LOOK)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK):
                        await self._wanted.wait()
        finally:
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)

    async def _look(self) -> None:
        for item in self.items():
            if item.is_there is None:
                await self.look_at(item)
            await self._look_for_upload(item)
        if all(item.place is None for item in self.items()) or self._gateway.draining:
            return
        for name in self._wishes():
            await self._look_at_wanted(self._known[name])

    async def _look_for_upload(self, item: Item) -> None:
        """Forget the failures of a model that was uploaded since the latest of them began."""
        known = self._memory.of(item.model.name)
        if known.reason is None:
            return
        uploaded = await in_thread(partial(uploaded_at, item.model, os.environ))
        if uploaded is not None and uploaded > known.tried_at:
            log.info("model %s is tried again: it was uploaded", known.model)
            self._keeping.keep(self._memory.forgive(known.model))
            self._told(known.model)

    async def _look_at_wanted(self, item: Item) -> None:
        """Begin to download a model that is wanted, if it is missing and may be downloaded now."""
        if item.place is None or self.progress(item.model.name) is not None:
            return
        if monotonic() - item.looked_at > AGAIN:
            await self.look_at(item)
        has_room = len(self._tasks) < self._options.downloads.at_once
        barred = self._memory.barred_until(item.model.name) > monotonic()
        if item.place is not None and not item.is_there and not barred and has_room:
            item.progress = Progress(monotonic())
            item.task = asyncio.create_task(self._download(item, item.place))
            self._tasks.add(item.task)
            item.task.add_done_callback(self._tasks.discard)

    async def look_at(self, item: Item) -> None:
        """Look at the disk for a model."""
        item.place, item.files = await in_thread(partial(_found, item.model))
        item.looked_at = monotonic()
        item.trusted = item.trusted and item.files.count > 0
        before, item.is_there = item.is_there, self._is_there(item)
        if item.is_there != before:
            self._tell(item)

    def _tell(self, item: Item) -> None:
        name = item.model.name
        if item.is_there and item.place and self._memory.of(name).reason in ENDED_ON_DISK:
            self._keeping.keep(self._memory.forgive(name))
        self._told(name)

    def _is_there(self, item: Item) -> bool:
        if item.place is None or item.trusted:
            return True
        record, files = self.records.of(item.place), item.files
        if record is not None and not record.whole:
            return False
        known = record is not None and record.fetched and files.size >= record.size
        return files.whole or (known and files.count > 0)

    # one download

    async def _download(self, item: Item, place: Place) -> None:
        name = item.model.name
        log.info("model %s is missing: %s is downloaded", name, place.repository)
        self._tally.downloaded(name)
        try:
            await self._fetch(item, place)
            log.info("model %s is on the disk", name)
        except Stopped as stopped:
            self._note_failure(place, stopped.refused)
        except OSError as error:  # of the disk; the process that downloads has none
            self._note_failure(place, Refused("download_failed", str(error)))
        except Exception as error:
            log.exception("model %s could not be downloaded", name)
            self._note_failure(place, Refused("download_failed", repr(error)))
        finally:
            # The others of this place have looked before they may begin a download of their own.
            with contextlib.suppress(OSError):
                for one in self._at(place):
                    await self.look_at(one)
            item.progress, item.task = None, None
        for one in self._at(place):
            self._told(one.model.name)

    def _at(self, place: Place) -> Iterable[Item]:
        return [one for one in self.items() if one.place == place]

    async def _fetch(self, item: Item, place: Place) -> None:
        """Raises Stopped."""
        assert place.here is not None  # `place_to_fill` returns no other
        assert item.progress is not None
        progress = item.progress
        is_new = not await in_thread((place.here / "snapshots").exists)
        secrets = secrets_of(self._options.secrets, os.environ)

        async def admit(plan: Plan) -> None:
            progress.total = plan.size
            progress.done = progress.began_with = plan.size - plan.missing
            await self._admit(item, place, plan)
            before = self.records.of(place)
            fetched = is_new if before is None else before.fetched
            with contextlib.suppress(StorageError):  # the storage reports it
                await self.records.begins(place, plan.size, fetched=fetched)

        def moved(done: int) -> None:
            progress.done = done

        job = Job(
            repository=place.repository,
            revision=place.revision,
            cache=str(place.here.parent),
            folder=str(place.here),
            patterns=item.model.files,
        )
        environment = environment_of(os.environ, secrets, item.model)
        await fetch(job, environment, admit, moved)
        with contextlib.suppress(StorageError):
            await self.records.is_there(place, progress.total)

    async def _admit(self, item: Item, place: Place, plan: Plan) -> None:
        """Make room for a download. Raises Stopped if there is none."""
        assert place.here is not None
        cache, downloads = place.here.parent, self._options.downloads
        if plan.missing and not await in_thread(partial(room.is_writable, cache)):
            raise Stopped(Refused("download_failed", f"the gateway may not write in {cache}"))
        others = [one.progress for one in self.items() if one is not item and one.progress]
        reserved = sum(one.total - one.done for one in others)
        kept = downloads.keep_free_gb * room.GB
        free = await in_thread(lambda: room.disk_of(cache).free_bytes)
        lacking = plan.missing + reserved + kept - free
        if lacking > 0 and plan.missing and downloads.evict:
            await self._evicting.evict(cache, lacking)
            free = await in_thread(lambda: room.disk_of(cache).free_bytes)
        if plan.missing and plan.missing + reserved + kept > free:
            words = room.too_large(plan.missing, free, reserved, kept, cache)
            raise Stopped(Refused("disk_full", words))

    def _note_failure(self, place: Place, refused: Refused) -> None:
        for item in self._at(place):
            name = item.model.name
            if refused.reason == "download_failed" and self._may_do_without(item, place):
                item.trusted = True
                words = "model %s: the hub cannot be asked (%s); its engine gets what is there"
                log.warning(words, name, refused.text)
                continue
            found = failure(refused.reason, refused.text)
            log.warning("model %s is not downloaded: %s: %s", name, found.reason, found.text)
            self._tally.failed(name, found.reason)
            self._keeping.keep(self._memory.failed(name, found.reason, found.text, found.kept))

    def _may_do_without(self, item: Item, place: Place) -> bool:
        """Whether what is on the disk may be enough: no download of the gateway was cut off."""
        return item.files.count > 0 and not self.records.is_broken(place)


def _found(model: Model) -> tuple[Place | None, Files]:
    """Return where the gateway downloads a model to, and what is there.

    A place that this process may not read is left to the engine.
    """
    try:
        place = place_to_fill(model, os.environ)
        snapshot = None if place is None else place.snapshot
        return place, Files() if snapshot is None else inspect(snapshot)
    except OSError as error:
        log.warning("model %s is left to its engine: %s", model.name, error)
        return None, Files()
