"""The life of uploads: they begin, grow, and end by expiry, deletion, or as a model."""

import asyncio
import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

from msgspec.structs import replace

from gateway import BadRequest, Database, NotFound, Peers, Storage, StorageError, Topic, Value
from gateway_plugins.uploads.errors import TooManyUploads
from gateway_plugins.uploads.options import Options
from gateway_plugins.uploads.store import rows
from gateway_plugins.uploads.store.folder import Folder
from gateway_plugins.uploads.store.rows import (
    COMPLETED,
    EXPIRED,
    OVER,
    PARTIAL,
    UPLOADING,
    VERIFYING,
    Upload,
)
from gateway_plugins.uploads.store.slots import Slots
from gateway_plugins.uploads.store.turns import Turn, Turns

log = logging.getLogger("gateway.uploads")

THREADS = 4
"""Threads that write, so that a slow disk holds up nothing else."""

LOOK = 0.1
"""Seconds between two looks whether an upload is over."""

READY = Topic("uploads", "ready")

RECEIVING = "receiving"
"""The file of the slots, in the folder of the uploads."""

T = TypeVar("T")


class Uploads:
    """The uploads of one process; all processes share the rows and the folder."""

    def __init__(self, storage: Storage, peers: Peers, options: Options, folder: Folder) -> None:
        self.options = options
        self.folder = folder
        self.threads = ThreadPoolExecutor(THREADS, "gateway-uploads")
        self.turns = Turns(peers, options.hand_over)
        self._slots = Slots(folder.path / RECEIVING)
        self.is_ready: Callable[[], None] = _nothing
        self._storage = storage
        self._peers = peers

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run `work` in a thread of the uploads."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, work)

    async def find(self, upload_id: str, owner: str | None) -> Upload:
        """Return an upload. Raises NotFound, also if it is not of this owner. None: anybody's."""
        found = await self._storage.read(lambda db: rows.find(db, upload_id, owner))
        if found is None:
            raise NotFound("there is no such upload", param="id")
        return found

    async def wait(self, upload: Upload, seconds: float) -> Upload:
        """Return an upload once it is over, or after so many seconds. Raises NotFound."""
        ends = time.monotonic() + seconds
        while upload.status not in OVER and not self.turns.is_stopping:
            left = ends - time.monotonic()
            if left <= 0:
                break
            await asyncio.sleep(min(LOOK, left))  # another process may end it
            upload = await self.find(upload.id, None)
        return upload

    def expiry(self) -> float:
        """Return when an upload expires whose latest byte comes now."""
        return time.time() + self.options.expires

    def receiving(self, owner: str) -> AbstractAsyncContextManager[None]:
        """Wait until the owner's uploads that are received now are few enough. Raises OSError."""
        return self._slots.slot(owner, self.options.max_at_once)

    # beginnings

    async def begin(self, upload: Upload) -> Upload:
        """Add an upload. Raises TooManyUploads, OSError, StorageError."""
        await self._storage.write(lambda db: self._add(db, upload))
        try:
            await self.in_thread(lambda: self.folder.create(upload.id))
        except OSError:
            with contextlib.suppress(StorageError):  # without a file it is soon forgotten
                await self._storage.write(lambda db: rows.remove(db, upload.id))
            raise
        return upload

    def _add(self, db: Database, upload: Upload) -> None:
        most = self.options.max_open_per_key
        if rows.count_open(db, upload.owner) >= most:
            raise TooManyUploads(
                f"this key has {most} unfinished uploads (uploads.max_open_per_key): finish some, "
                "or DELETE them"
            )
        rows.add(db, upload)

    async def join(self, upload: Upload) -> Upload:
        """Add a final upload of parts, or return the one that was added before.

        Raises BadRequest if a part is missing, unfinished, or used already, and StorageError.
        """
        joined = await self._storage.write(lambda db: _join(db, upload))
        self.wake()
        return joined

    # growth

    async def measure(self, upload: Upload, turn: Turn) -> int:
        """Return how many bytes of the upload there are.

        Those of a request that was cut off before its checksum was known go. Raises OSError,
        StorageError.
        """
        if upload.kept_to is None:
            return (await self.in_thread(lambda: os.fstat(turn.fd))).st_size
        await self.cut(upload, turn, upload.kept_to)
        return upload.kept_to

    async def cut(self, upload: Upload, turn: Turn, size: int) -> None:
        """Remove all bytes after the first `size` ones. Raises OSError, StorageError."""
        await self.in_thread(lambda: os.truncate(turn.fd, size))
        await self.change(upload, kept_to=None)

    async def change(self, upload: Upload, **changes: Value) -> None:
        """Change fields of an upload that is still `uploading`. Raises NotFound, StorageError."""
        status = upload.status
        if not await self._storage.write(lambda db: rows.change(db, upload.id, status, changes)):
            raise NotFound("the upload has just ended", param="id")

    async def settle(self, upload: Upload, size: int) -> Upload:
        """Note that the upload has `size` bytes; return it as it is then.

        If these are all, it is ready to be installed. Raises NotFound, StorageError.
        """
        changes: dict[str, Value] = {"received": size, "expires": self.expiry(), "kept_to": None}
        if upload.length == size:
            changes["status"] = COMPLETED if upload.is_partial else VERIFYING
        await self.change(upload, **changes)
        if changes.get("status") == VERIFYING:
            self.wake()
        return replace(upload, **changes)

    def wake(self) -> None:
        """Tell the process that installs that there is an upload to install."""
        self.is_ready()
        task = asyncio.ensure_future(self._peers.request(READY, b""))
        task.add_done_callback(_nothing_of)

    # ends

    async def delete(self, upload: Upload) -> None:
        """Delete an upload that is not being installed. Raises StorageError."""
        await self._storage.write(lambda db: rows.remove(db, upload.id))
        await self.in_thread(lambda: self.folder.delete([upload.id]))

    async def end(self, upload: Upload, status: str, changes: Mapping[str, Value]) -> None:
        """End an upload that was to be installed, with its bytes. Raises StorageError."""
        expires = time.time() + self.options.keep_results
        fields = {**changes, "status": status, "expires": expires}
        if await self._storage.write(lambda db: rows.change(db, upload.id, upload.status, fields)):
            await self.in_thread(lambda: self.folder.delete([*upload.content, upload.id]))

    async def waiting(self) -> Sequence[Upload]:
        """Return the uploads that are to be installed. Raises StorageError."""
        return await self._storage.read(rows.waiting)

    async def clean(self) -> None:
        """End what has expired, and forget what has been over for long. Raises StorageError."""
        found = await self._storage.read(lambda db: rows.expired(db, time.time()))
        for upload in found:
            if await self.in_thread(lambda one=upload: self._is_idle(one)):  # type: ignore[misc]
                await self._expire(upload)
        now = time.time()
        await self._storage.write(lambda db: rows.forget(db, now))

    def _is_idle(self, upload: Upload) -> bool:
        """Whether no request writes the upload now."""
        try:
            fd = os.open(self.folder.file(upload.id), os.O_RDONLY)
        except OSError:
            return True
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        finally:
            os.close(fd)
        return True

    async def _expire(self, upload: Upload) -> None:
        text = f"nothing more came for {self.options.expires:g} s (uploads.expires)"
        expires = time.time() + self.options.keep_results
        changes: dict[str, Value] = {"status": EXPIRED, "error": text, "expires": expires}
        log.info("upload %s has expired", upload.id)
        await self._storage.write(lambda db: rows.change(db, upload.id, upload.status, changes))
        await self.in_thread(lambda: self.folder.delete([upload.id]))

    async def remove_orphans(self) -> None:
        """Delete the bytes of uploads that nobody needs. Raises OSError, StorageError."""
        present = set(await self.in_thread(self.folder.all))
        needed = await self._storage.read(rows.needing_bytes)
        await self.in_thread(lambda: self.folder.delete(present - needed))

    async def settle_whole(self) -> None:
        """Go on with uploads whose last byte came right before the gateway was killed."""
        for upload in await self._storage.read(rows.uploading):
            with contextlib.suppress(NotFound, OSError):
                async with self.turns.turn(upload.id, self.folder.file(upload.id)) as turn:
                    size = await self.measure(upload, turn)
                    if size == upload.length:
                        await self.settle(upload, size)

    def close(self) -> None:
        self.threads.shutdown()
        self._slots.close()
        self.folder.close()


def _join(db: Database, upload: Upload) -> Upload:
    before = rows.find_final(db, upload)
    if before is not None:
        return before
    parts = [_part(db, one, upload.owner) for one in upload.content]
    length = sum(part.length or 0 for part in parts)
    joined = replace(upload, length=length, received=length, status=VERIFYING)
    rows.add(db, joined)
    rows.claim(db, upload.content, upload.id)
    return joined


def _part(db: Database, part_id: str, owner: str) -> Upload:
    part = rows.find(db, part_id, owner)
    problem = None
    if part is None:
        problem = "there is no such upload"
    elif part.concat != PARTIAL:
        problem = "it was not created with `Upload-Concat: partial`"
    elif part.status != COMPLETED:
        problem = "it is not finished" if part.status == UPLOADING else "it has expired"
    elif part.final:
        problem = "it is part of another upload already"
    if part is None or problem is not None:
        raise BadRequest(f"Upload-Concat: {part_id}: {problem}", param="Upload-Concat")
    return part


def _nothing() -> None: ...


def _nothing_of(_: object) -> None: ...
