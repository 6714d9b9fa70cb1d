"""The methods of the protocol."""

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path

from starlette.responses import Response

from gateway import NotFound
from gateway_plugins.uploads.errors import UploadConflict, UploadDiskFull, UploadGone
from gateway_plugins.uploads.life import Uploads
from gateway_plugins.uploads.store.folder import ID
from gateway_plugins.uploads.store.rows import (
    EXPIRED,
    FAILED,
    INSTALLING,
    UPLOADING,
    VERIFYING,
    Upload,
)
from gateway_plugins.uploads.store.turns import Turn
from gateway_plugins.uploads.tus.appending import Appending
from gateway_plugins.uploads.tus.creating import check_model, new_upload
from gateway_plugins.uploads.tus.fields import BYTES, date, head_of
from gateway_plugins.uploads.tus.request import Request
from gateway_plugins.uploads.tus.showing import Shown

Handler = Callable[[Request], Awaitable[Response]]

GB = 1e9


class Protocol:
    """Handlers by method. `uploads` returns the uploads, which are there before any request."""

    def __init__(
        self,
        uploads: Callable[[], Uploads],
        cache: Callable[[], Path],
        shown: Callable[[Upload, int], Shown],
        max_bytes: Callable[[], int],
        arrived: Callable[[int], None],
    ) -> None:
        self._uploads = uploads
        self._cache = cache
        self._shown = shown
        self._max_bytes = max_bytes
        self._appending = Appending(uploads, arrived)
        self._of_all: Mapping[str, Handler] = {"POST": self.create}
        self._of_one: Mapping[str, Handler] = {
            "HEAD": self.head,
            "GET": self.show,
            "PATCH": self.append,
            "DELETE": self.delete,
        }

    @property
    def max_bytes(self) -> int:
        return self._max_bytes()

    def handlers(self, of_one: bool) -> Mapping[str, Handler]:
        """Return the methods of an upload, or of all."""
        return self._of_one if of_one else self._of_all

    async def create(self, request: Request) -> Response:
        """Create an upload, with its first bytes if the request has some."""
        uploads = self._uploads()
        upload = new_upload(request, uploads.options, uploads.expiry())
        await uploads.in_thread(partial(check_model, upload, self._cache()))
        if upload.is_final:
            return self._created(request, await uploads.join(upload), None)
        await self._check_room(upload)
        with_bytes = request.has_body and _is_of_bytes(request)
        if with_bytes:
            self._appending.check(request, upload, 0)
        await uploads.begin(upload)
        offset = None
        if with_bytes or upload.length == 0:
            async with uploads.receiving(upload.owner), self._turn(upload) as turn:
                upload = await self._appending.append(request, upload, turn, 0, read=with_bytes)
            offset = upload.received
        return self._created(request, upload, offset)

    async def _check_room(self, upload: Upload) -> None:
        uploads = self._uploads()
        free = await uploads.in_thread(uploads.folder.free)
        kept = uploads.options.keep_free_gb * GB
        if (upload.length or 0) + kept > free:
            raise UploadDiskFull(
                f"the upload has {upload.length or 0} bytes, and {free} are free, of which "
                f"{kept:.0f} are to stay so (uploads.keep_free_gb)"
            )

    def _created(self, request: Request, upload: Upload, offset: int | None) -> Response:
        """The location is relative: it is right below the prefix of any proxy."""
        place = upload.id if request.path.endswith("/") else f"upload/{upload.id}"
        headers = {"location": place, "upload-expires": date(upload.expires)}
        if offset is not None:
            headers["upload-offset"] = str(offset)
        if upload.status != UPLOADING:
            headers["x-upload-status"] = upload.status
        return Response(status_code=201, headers=headers)

    async def head(self, request: Request) -> Response:
        """Say how far an upload is. Raises UploadGone if no byte of it counts any more."""
        upload = await self._found(request)
        offset = upload.received
        if upload.status == UPLOADING:
            upload, offset = await self._measured(upload)
        return Response(headers=head_of(upload, offset))

    async def _measured(self, upload: Upload) -> tuple[Upload, int]:
        uploads = self._uploads()
        async with self._turn(upload) as turn:
            upload = await uploads.find(upload.id, None)
            if upload.status != UPLOADING:
                return upload, upload.received
            size = await uploads.measure(upload, turn)
            if size == upload.length:  # the gateway was killed before it noted that
                upload = await uploads.settle(upload, size)
            return upload, size

    async def append(self, request: Request) -> Response:
        """Append the body to an upload."""
        upload = await self._found(request)
        self._appending.check_request(request, upload)
        if upload.status != UPLOADING:
            return self._appending.repeated(request, upload)
        uploads = self._uploads()
        async with uploads.receiving(upload.owner), self._turn(upload) as turn:
            upload = await uploads.find(upload.id, None)
            if upload.status != UPLOADING:
                return self._appending.repeated(request, upload)
            size = await uploads.measure(upload, turn)
            upload = await self._appending.lengthened(request, upload)
            self._appending.check(request, upload, size)
            upload = await self._appending.append(request, upload, turn, size)
        return self._appending.appended(upload)

    async def delete(self, request: Request) -> Response:
        """Delete an upload, also one that has ended."""
        upload = await self._found(request, also_ended=True)
        uploads = self._uploads()
        if upload.status in (VERIFYING, INSTALLING):
            raise UploadConflict("the upload is being installed", code="upload_is_installed")
        if upload.final and await self._is_needed(upload.final):
            raise UploadConflict("its upload is being installed", code="upload_is_installed")
        if upload.status != UPLOADING:
            await uploads.delete(upload)
            return Response(status_code=204)
        async with self._turn(upload):
            await uploads.delete(upload)
        return Response(status_code=204)

    async def _is_needed(self, final: str) -> bool:
        with contextlib.suppress(NotFound):
            found = await self._uploads().find(final, None)
            return found.status in (VERIFYING, INSTALLING)
        return False

    async def show(self, request: Request) -> Response:
        """Show what is known of an upload, as JSON; disturbs nobody who writes it.

        With `?wait=SECONDS` the answer comes once the upload is over, or after so long.
        """
        upload = await self._found(request, also_ended=True)
        uploads = self._uploads()
        upload = await uploads.wait(upload, request.seconds_to_wait)
        offset = upload.received
        if upload.status == UPLOADING and upload.kept_to is None:
            offset = await uploads.in_thread(lambda: uploads.folder.size(upload.id))
        return self._shown(upload, offset).response()

    async def _found(self, request: Request, *, also_ended: bool = False) -> Upload:
        """Return the upload of a request. Raises NotFound, UploadGone."""
        if not ID.fullmatch(request.id):
            raise NotFound("there is no such upload", param="id")
        upload = await self._uploads().find(request.id, request.visible)
        if upload.status in (FAILED, EXPIRED) and not also_ended:
            raise UploadGone(f"the upload is over: {upload.error}", code=f"upload_{upload.status}")
        return upload

    def _turn(self, upload: Upload) -> contextlib.AbstractAsyncContextManager[Turn]:
        uploads = self._uploads()
        return uploads.turns.turn(upload.id, uploads.folder.file(upload.id))


def _is_of_bytes(request: Request) -> bool:
    kind = (request.header("content-type") or "").partition(";")[0]
    return kind.strip().lower() == BYTES
