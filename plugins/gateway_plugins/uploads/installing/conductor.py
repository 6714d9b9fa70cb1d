"""The one task that installs uploads, one after the other, and cleans up."""

import asyncio
import contextlib
import logging
import time
from functools import partial
from pathlib import Path

from gateway import StorageError
from gateway_plugins.uploads.installing import clearing
from gateway_plugins.uploads.installing.messages import (
    Event,
    Installed,
    Job,
    Moved,
    Refused,
    Verified,
)
from gateway_plugins.uploads.installing.process import install
from gateway_plugins.uploads.life import Uploads
from gateway_plugins.uploads.report import Tally
from gateway_plugins.uploads.store.folder import LOCK
from gateway_plugins.uploads.store.rows import COMPLETED, FAILED, INSTALLING, VERIFYING, Upload

log = logging.getLogger("gateway.uploads")

LOOK = 5.0
"""Seconds between two looks at what is to be installed, if nobody tells."""

CLEAN = 60.0
"""Seconds between two cleanings."""

AGAIN = 5.0
"""Seconds after which an installation is tried again if the database could not be written."""

GB = 1e9


class Conductor:
    """Installs the uploads of all processes into `cache`."""

    def __init__(self, uploads: Uploads, cache: Path, tally: Tally) -> None:
        self.progress: dict[str, float] = {}
        self._uploads = uploads
        self._cache = cache
        self._tally = tally
        self._wanted = asyncio.Event()

    def wake(self) -> None:
        """Look at once."""
        self._wanted.set()

    async def run(self) -> None:
        """Install what is to be installed, until cancelled."""
        while True:
            self._wanted.clear()
            try:
                for upload in await self._uploads.waiting():
                    await self._install(upload)
            except (StorageError, OSError) as error:
                log.warning("uploads cannot be installed now: %s", error)
                await asyncio.sleep(AGAIN)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    await self._wanted.wait()

    async def clean(self) -> None:
        """Remove what has expired and what was replaced, from time to time, until cancelled."""
        while True:
            await asyncio.sleep(CLEAN)
            await self.clean_once()

    async def clean_once(self) -> None:
        """Remove what has expired, and models that were replaced."""
        uploads = self._uploads
        keep = uploads.options.keep_replaced
        try:
            await uploads.clean()
            await uploads.in_thread(partial(clearing.clear, self._cache, time.time() - keep))
        except (StorageError, OSError) as error:
            log.warning("uploads cannot be cleaned up now: %s", error)

    async def _install(self, upload: Upload) -> None:
        uploads = self._uploads
        if upload.status == INSTALLING:  # the gateway was killed meanwhile
            await uploads.change(upload, status=VERIFYING)
            upload.status = VERIFYING
        log.info("upload %s: %s bytes are verified", upload.id, upload.length)
        changes: list[asyncio.Task[None]] = []

        def told(event: Event) -> None:
            self.progress[upload.id] = event.progress if isinstance(event, Moved) else 0.0
            if isinstance(event, Verified):
                changes.append(asyncio.ensure_future(self._verified(upload, event)))

        try:
            ended = await install(self._job(upload), uploads.options.stalled, told)
            await asyncio.gather(*changes)
            await self._end(upload, ended)
        finally:
            self.progress.pop(upload.id, None)

    async def _verified(self, upload: Upload, event: Verified) -> None:
        await self._uploads.change(upload, status=INSTALLING, sha256=event.sha256)
        upload.status = INSTALLING

    async def _end(self, upload: Upload, ended: Installed | Refused) -> None:
        if isinstance(ended, Installed):
            log.info("upload %s is the model %s now", upload.id, upload.model)
            self._tally.ended(COMPLETED)
            await self._uploads.end(upload, COMPLETED, {"sha256": ended.sha256})
            return
        log.warning("upload %s of %s has failed: %s", upload.id, upload.model, ended.text)
        self._tally.ended(FAILED)
        await self._uploads.end(upload, FAILED, {"code": ended.code, "error": ended.text})

    def _job(self, upload: Upload) -> Job:
        options, folder = self._uploads.options, self._uploads.folder
        assert upload.model is not None  # a partial upload is not installed
        return Job(
            id=upload.id,
            model=upload.model,
            owner=upload.owner,
            replaces=upload.replaces,
            files=tuple(str(folder.file(one)) for one in upload.content),
            lock=str(folder.path / f"{upload.id}{LOCK}"),
            cache=str(self._cache),
            filename=upload.filename,
            expected=upload.expected,
            max_ratio=options.max_ratio,
            max_unpacked_bytes=options.max_unpacked_bytes,
            max_members=options.max_members,
            keep_free=int(options.keep_free_gb * GB),
        )
