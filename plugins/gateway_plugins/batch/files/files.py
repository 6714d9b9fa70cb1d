"""The files of callers: kept, found, deleted, and cleaned up after."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gateway import ConfigError, Database, Storage, StorageError
from gateway_plugins.batch.files import rows
from gateway_plugins.batch.files.folder import Folder, file_id
from gateway_plugins.batch.files.part import FilesUnavailable, Part, refusal
from gateway_plugins.batch.files.rows import Page, StoredFile
from gateway_plugins.batch.options import Options

log = logging.getLogger("gateway.batch")

CLEAN = 60.0
"""Seconds between two deletions of what has expired."""

THREADS = 4
"""Threads that read and write contents, so that a slow disk holds up nothing else."""

BATCH = "batch"
"""Purpose of the files that batches read."""


def _nothing(_: Database) -> None: ...


class Files:
    """The files of one process; all processes share the rows, and the folder if it has a path.

    `path` is the folder; None: a temporary one. `cleaning` is called from time to time.
    """

    def __init__(self, storage: Storage, options: Options, path: Path | None) -> None:
        self.options = options
        self.threads = ThreadPoolExecutor(THREADS, "gateway-files")
        self.cleaning: list[Callable[[], Awaitable[None]]] = [self.clean]
        self._storage = storage
        self._path = path
        self._folder: Folder | None = None

    @property
    def folder(self) -> Folder:
        assert self._folder is not None  # no request comes before the lifespan
        return self._folder

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the folder in order between entry and exit. Raises ConfigError if there is none."""
        try:
            self._folder = folder = Folder(self._path)
        except OSError as error:
            raise ConfigError(
                f"batch.files: there can be no folder {self._path}: {error}"
            ) from None
        folder.delete_leftovers()
        cleaning = asyncio.create_task(self._run())
        try:
            yield
        finally:
            cleaning.cancel()
            await asyncio.wait([cleaning])
            self.threads.shutdown()
            folder.close()

    async def _run(self) -> None:
        while True:
            try:
                for clean in self.cleaning:
                    await clean()
            except StorageError as error:
                log.warning("expired files could not be deleted now: %s", error)
            await asyncio.sleep(CLEAN)

    async def clean(self) -> None:
        """Delete expired files, and contents that nobody needs. Raises StorageError."""
        await self._storage.write(lambda db: rows.expire(db, time.time()))
        while ids := await self._storage.read(lambda db: rows.gone(db, time.time())):
            await self.remove(ids)

    async def remove(self, ids: Sequence[str]) -> None:
        """Remove contents that nobody needs, and then their rows. Raises StorageError."""
        await self.delete_contents(ids)
        await self._storage.write(lambda db: rows.forget(db, ids))

    async def delete_contents(self, ids: Sequence[str]) -> None:
        """Delete contents; those that are gone already do not matter."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self.threads, self.folder.delete, ids)

    def limit_of(self, purpose: str) -> int:
        """Return the maximum size of a file, in bytes."""
        options = self.options
        return options.max_batch_file_bytes if purpose == BATCH else options.max_file_bytes

    def part(self) -> Part:
        """Return a new content to write."""
        return Part(self.folder.part(), self.threads)

    async def check_room(self, owner: str) -> None:
        """Raise BadRequest if the owner may have no more files."""
        most = self.options.max_files_per_key
        await self._storage.read(lambda db: rows.check_room(db, owner, most))

    async def keep(
        self, part: Part, file: StoredFile, also: Callable[[Database], None] = _nothing
    ) -> None:
        """Keep a content that is finished as `file`. `also` runs in the transaction that shows it.

        Raises BadRequest if its owner may have no more files, FilesUnavailable, StorageError, and
        what `also` raises; nothing is kept then.
        """
        most = self.options.max_files_per_key
        await self._storage.write(lambda db: rows.announce(db, file, most))
        try:
            await self.move(part, file.id)
            await self._storage.write(lambda db: self._publish(db, file, also))
        except BaseException:
            with contextlib.suppress(StorageError):  # it is cleaned up later
                await self.remove([file.id])
            raise

    def _publish(self, db: Database, file: StoredFile, also: Callable[[Database], None]) -> None:
        if not rows.publish(db, file):
            raise FilesUnavailable("the file was taken for abandoned, because the clock has jumped")
        also(db)

    async def move(self, part: Part, id_: str) -> None:
        """Move a content that is finished to its place. Raises FilesUnavailable."""
        try:
            await asyncio.get_running_loop().run_in_executor(self.threads, self._move, part, id_)
        except OSError as error:
            raise refusal(error) from error

    def _move(self, part: Part, id_: str) -> None:
        part.path.rename(self.folder.content(id_))
        self.folder.sync()

    async def find(self, id_: str, owner: str | None) -> StoredFile | None:
        """Return a file; None if there is none, or not of this owner. `owner` None: anybody's."""
        return await self._storage.read(lambda db: rows.find(db, id_, owner))

    async def page(self, wanted: Page) -> list[StoredFile]:
        """Return the files of a page, and one more if there are more."""
        return await self._storage.read(lambda db: rows.page(db, wanted))

    async def delete(self, id_: str, owner: str | None) -> bool:
        """Delete a file; False if there is none, or not of this owner."""

        def run(db: Database) -> tuple[bool, bool]:
            if rows.find(db, id_, owner) is None:
                return False, False
            return True, rows.delete(db, id_)

        found, is_unused = await self._storage.write(run)
        if is_unused:
            with contextlib.suppress(StorageError):  # it is cleaned up later
                await self.remove([id_])
        return found


def new_file(*, owner: str, filename: str, purpose: str, size: int, seconds: float) -> StoredFile:
    """Return a new file of `size` bytes that expires after `seconds`."""
    now = time.time()
    return StoredFile(
        id=file_id(),
        owner=owner,
        filename=filename,
        purpose=purpose,
        bytes=size,
        created=now,
        expires=now + seconds,
    )
