"""The plugin: models come in by uploads that can be resumed."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path

from starlette.routing import BaseRoute

from gateway import ConfigError, Host, Migrations, Panel, Sample, hookimpl
from gateway_plugins.uploads.installing import clearing
from gateway_plugins.uploads.installing.conductor import Conductor
from gateway_plugins.uploads.life import READY, Uploads
from gateway_plugins.uploads.options import Options
from gateway_plugins.uploads.panels import UploadPanels
from gateway_plugins.uploads.places import cache_of
from gateway_plugins.uploads.report import Tally
from gateway_plugins.uploads.store.folder import Folder
from gateway_plugins.uploads.store.rows import Upload
from gateway_plugins.uploads.store.schema import MIGRATIONS
from gateway_plugins.uploads.tus.endpoint import routes
from gateway_plugins.uploads.tus.protocol import Protocol
from gateway_plugins.uploads.tus.showing import Shown, shown


class ModelUploads:
    """The plugin."""

    Config = Options

    def __init__(self, config: Options) -> None:
        self._options = config
        self._tally = Tally()
        self._uploads: Uploads | None = None
        self._conductor: Conductor | None = None

    def uploads(self) -> Uploads:
        assert self._uploads is not None  # no request comes before the lifespan
        return self._uploads

    @property
    def cache(self) -> Path:
        """The cache of the hub that gets the models."""
        given = self._options.cache
        return cache_of(os.environ) if given is None else Path(given).expanduser().absolute()

    @hookimpl
    def migrations(self) -> Migrations:
        return MIGRATIONS

    @hookimpl
    def routes(self, gateway: Host) -> Sequence[BaseRoute]:
        protocol = Protocol(
            self.uploads,
            lambda: self.cache,
            self._shown,
            lambda: self._options.max_bytes,
            self._tally.arrived,
        )
        return routes(gateway, protocol)

    @hookimpl
    def panels(self, gateway: Host) -> Sequence[Panel]:
        return UploadPanels(gateway.storage, self.uploads, self._progress).all()

    def _shown(self, upload: Upload, offset: int) -> Shown:
        return shown(upload, offset, self._progress().get(upload.id, 0.0))

    def _progress(self) -> Mapping[str, float]:
        return {} if self._conductor is None else self._conductor.progress

    @hookimpl
    @contextlib.asynccontextmanager
    async def lifespan(self, gateway: Host) -> AsyncIterator[None]:
        try:
            folder = Folder(_folder(gateway, self._options))
            uploads = Uploads(gateway.storage, gateway.peers, self._options, folder)
        except OSError as error:
            raise ConfigError(f"uploads.files: there can be no such folder: {error}") from None
        self._uploads = uploads
        tasks = [asyncio.create_task(_stop(gateway, uploads))]
        if gateway.peers.index == 0:
            tasks += await self._begin(gateway, uploads)
        try:
            yield
        finally:
            uploads.turns.stop_all()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            uploads.close()

    async def _begin(self, gateway: Host, uploads: Uploads) -> list[asyncio.Task[None]]:
        """Go on with what was there before, in the one process that installs."""
        conductor = self._conductor = Conductor(uploads, self.cache, self._tally)

        async def ready(_: bytes) -> bytes:
            conductor.wake()
            return b""

        gateway.peers.handle(READY, ready)
        uploads.is_ready = conductor.wake
        await uploads.remove_orphans()
        await uploads.in_thread(lambda: clearing.clear_staging(self.cache))
        parts = (uploads.settle_whole(), conductor.run(), conductor.clean())
        return [asyncio.create_task(part) for part in parts]

    @hookimpl
    def samples(self) -> Iterator[Sample]:
        return self._tally.samples()


async def _stop(gateway: Host, uploads: Uploads) -> None:
    await gateway.until_draining()
    uploads.turns.stop_all()


def _folder(gateway: Host, options: Options) -> Path | None:
    """Return the folder of uploads; None: a temporary one, because the database is in memory."""
    if options.files is not None:
        return Path(options.files).expanduser().absolute()
    path = gateway.storage.path
    return None if gateway.config.storage.in_memory else path.with_name(f"{path.name}-uploads")
