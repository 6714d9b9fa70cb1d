"""Uploads: their parts are kept, joined to a file, and cleaned up after."""

import asyncio
import contextlib
import hashlib
import os
import secrets
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

from gateway import BadRequest, BodyTooLarge, CallError, Database, Storage, StorageError
from gateway_plugins.batch.files.files import Files, new_file
from gateway_plugins.batch.files.part import PIECE, Part, refusal
from gateway_plugins.batch.files.rows import StoredFile
from gateway_plugins.batch.uploads import rows
from gateway_plugins.batch.uploads.rows import (
    CANCELLED,
    COMPLETED,
    PENDING,
    StoredPart,
    StoredUpload,
)

HOUR = 3_600.0
"""Seconds after which an upload and its parts are deleted."""

MAX_PART = 64 * 1024 * 1024
"""Maximum size of a part in bytes."""


class UploadEnded(CallError):
    """The upload was completed or cancelled before."""

    status = 409
    code = "upload_ended"
    type = "invalid_request_error"


class Uploads:
    """The uploads of one process; all processes share them."""

    def __init__(self, storage: Storage, files: Files) -> None:
        self.files = files
        self._storage = storage
        files.cleaning.append(self.clean)

    async def begin(
        self, *, owner: str, filename: str, purpose: str, size: int, seconds: float | None
    ) -> StoredUpload:
        """Begin an upload of `size` bytes. Raises BadRequest, BodyTooLarge."""
        limit = self.files.limit_of(purpose)
        if size > limit:
            raise BodyTooLarge(f"the file is larger than {limit} bytes", param="bytes")
        now = time.time()
        upload = StoredUpload(
            id=f"upload_{secrets.token_hex(12)}",
            owner=owner,
            filename=filename,
            purpose=purpose,
            bytes=size,
            created=now,
            expires=now + HOUR,
            seconds=seconds,
        )
        most = self.files.options.max_files_per_key
        await self._storage.write(lambda db: rows.add(db, upload, most))
        return upload

    async def find(self, upload_id: str, owner: str | None) -> StoredUpload | None:
        """Return an upload; None if there is none, or not of this owner. None: anybody's."""
        now = time.time()
        return await self._storage.read(lambda db: rows.find(db, upload_id, owner, now))

    async def room(self, upload: StoredUpload) -> int:
        """Return how many bytes the next part may have. Raises BadRequest, UploadEnded."""
        _check_pending(upload)
        left = await self._storage.read(lambda db: rows.room(db, upload))
        return min(left, MAX_PART)

    async def keep(self, upload: StoredUpload, part: Part) -> StoredPart:
        """Keep a content that is finished as a part.

        Raises BadRequest, BodyTooLarge, UploadEnded, FilesUnavailable and StorageError.
        """
        kept = StoredPart(
            id=f"part_{secrets.token_hex(12)}",
            upload=upload.id,
            bytes=part.size,
            created=time.time(),
        )
        await self._storage.write(lambda db: _add_part(db, upload, kept))
        try:
            await self.files.move(part, kept.id)
            # Whoever ends the upload from now on finds the content, and deletes it.
            await self._storage.read(lambda db: _check_still(db, upload))
        except CallError:
            await self._delete([kept.id])
            raise
        return kept

    async def complete(
        self, upload: StoredUpload, part_ids: Sequence[str], md5: str | None
    ) -> StoredUpload:
        """Join the parts, in this order, to a file; return the upload as it is then.

        Repeated, it changes nothing. Raises BadRequest, UploadEnded, DiskFull, FilesUnavailable
        and StorageError; the upload goes on then.
        """
        if upload.status == COMPLETED:
            return upload
        _check_pending(upload)
        known = await self._storage.read(lambda db: rows.parts(db, upload.id))
        _check_parts(upload, part_ids, {part.id: part for part in known})
        async with self.files.part() as joined:
            await self._join(part_ids, joined, md5)
            file = self._file_of(upload)
            await self.files.keep(joined, file, lambda db: _complete(db, upload, file))
        await self._forget_parts(upload.id)
        upload.status, upload.file = COMPLETED, file.id
        return upload

    async def _join(self, part_ids: Sequence[str], joined: Part, md5: str | None) -> None:
        digest = hashlib.md5(usedforsecurity=False)
        for part_id in part_ids:
            await self._append(part_id, joined, digest)
        if md5 is not None and md5.lower() != digest.hexdigest():
            raise BadRequest(f"the md5 of the parts is {digest.hexdigest()}", param="md5")
        await joined.finish()

    async def _append(self, part_id: str, joined: Part, digest: "hashlib._Hash") -> None:
        """Append a part to the file. Raises UploadEnded if its content is gone."""
        loop, threads = asyncio.get_running_loop(), self.files.threads
        try:
            fd = os.open(self.files.folder.content(part_id), os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise UploadEnded("the upload has ended meanwhile, or a part of it is gone") from None
        except OSError as error:
            raise refusal(error) from error
        try:
            at = 0
            while data := await loop.run_in_executor(threads, os.pread, fd, PIECE, at):
                at += len(data)
                digest.update(data)
                await joined.write(data)
        finally:
            os.close(fd)

    def _file_of(self, upload: StoredUpload) -> StoredFile:
        return new_file(
            owner=upload.owner,
            filename=upload.filename,
            purpose=upload.purpose,
            size=upload.bytes,
            seconds=upload.seconds or self.files.options.keep_files,
        )

    async def cancel(self, upload: StoredUpload) -> StoredUpload:
        """Cancel an upload; return it as it is then. Raises UploadEnded, StorageError."""
        if upload.status == CANCELLED:
            return upload
        if not await self._storage.write(lambda db: rows.end(db, upload.id, CANCELLED)):
            raise ended(upload)
        await self._forget_parts(upload.id)
        upload.status = CANCELLED
        return upload

    async def _forget_parts(self, upload_id: str) -> None:
        with contextlib.suppress(StorageError):  # they are cleaned up later
            await self._delete_parts(upload_id)

    async def _delete_parts(self, upload_id: str) -> None:
        parts = await self._storage.read(lambda db: rows.parts(db, upload_id))
        await self._delete([part.id for part in parts])

    async def _delete(self, part_ids: Sequence[str]) -> None:
        await self.files.delete_contents(part_ids)
        await self._storage.write(lambda db: rows.forget_parts(db, part_ids))

    async def clean(self) -> None:
        """Delete the uploads that have expired, with their parts. Raises StorageError."""
        while ids := await self._storage.read(lambda db: rows.expired(db, time.time())):
            for upload_id in ids:
                await self._delete_parts(upload_id)
            await self._storage.write(partial(rows.forget, upload_ids=ids))


def _add_part(db: Database, upload: StoredUpload, part: StoredPart) -> None:
    """Add the row of a part. Raises UploadEnded, BodyTooLarge."""
    _check_still(db, upload)
    if part.bytes > rows.room(db, upload):
        raise BodyTooLarge(f"the upload has more than its {upload.bytes} bytes", param="data")
    rows.add_part(db, part)


def _check_still(db: Database, upload: StoredUpload) -> None:
    """Raise UploadEnded if the upload has ended meanwhile."""
    found = rows.find(db, upload.id, None, time.time())
    if found is None or found.status != PENDING:
        raise ended(found or upload)


def _complete(db: Database, upload: StoredUpload, file: StoredFile) -> None:
    """End the upload with its file. Raises UploadEnded."""
    if not rows.end(db, upload.id, COMPLETED, file.id):
        raise ended(upload)


def _check_pending(upload: StoredUpload) -> None:
    if upload.status != PENDING:
        raise ended(upload)


def _check_parts(
    upload: StoredUpload, part_ids: Sequence[str], known: Mapping[str, StoredPart]
) -> None:
    """Raise BadRequest unless the parts are known, once each, and as large as the upload."""
    for part_id, count in Counter(part_ids).items():
        if part_id not in known or count > 1:
            what = "twice" if part_id in known else "and is no part of this upload"
            message = f"`{part_id[:100]}` is among the part_ids {what}"
            raise BadRequest(message, param="part_ids")
    size = sum(known[part_id].bytes for part_id in part_ids)
    if size != upload.bytes:
        message = f"the parts have {size} bytes, and the upload was to have {upload.bytes}"
        raise BadRequest(message, param="part_ids")


def ended(upload: StoredUpload) -> UploadEnded:
    """Return the refusal of what is only possible before the end of an upload."""
    state = "has ended" if upload.status == PENDING else f"is {upload.status}"
    return UploadEnded(f"the upload {state} already")
