"""PATCH, and POST with a body: checks, and bytes to the disk."""

from collections.abc import Callable

from msgspec.structs import replace
from starlette.responses import Response

from gateway import BodyTooLarge, CallerGone, Forbidden
from gateway_plugins.uploads.errors import (
    ChecksumMismatch,
    UploadConflict,
    WrongContentType,
    bad_header,
)
from gateway_plugins.uploads.life import Uploads
from gateway_plugins.uploads.store.rows import Upload
from gateway_plugins.uploads.store.turns import Turn
from gateway_plugins.uploads.store.writing import Writer
from gateway_plugins.uploads.tus.body import End, receive_body
from gateway_plugins.uploads.tus.creating import check_length
from gateway_plugins.uploads.tus.fields import BYTES, Expected, date, number
from gateway_plugins.uploads.tus.request import Request

LENGTH, OFFSET = "Upload-Length", "Upload-Offset"


class Appending:
    """`arrived` is told how many bytes have come."""

    def __init__(self, uploads: Callable[[], Uploads], arrived: Callable[[int], None]) -> None:
        self._uploads = uploads
        self._arrived = arrived

    # checks, before a byte is read

    def check_request(self, request: Request, upload: Upload) -> None:
        """Raise an error if the request could append to no upload of this kind."""
        kind = (request.header("content-type") or "").partition(";")[0].strip().lower()
        if kind != BYTES:
            raise WrongContentType(f"the content-type of a PATCH is {BYTES}")
        if upload.is_final:
            raise Forbidden("an upload that consists of others gets no bytes", code="final_upload")

    def check(self, request: Request, upload: Upload, size: int) -> None:
        """Raise an error if the body may not follow the `size` bytes that are there."""
        if request.method == "PATCH":
            _check_offset(request, size)
        length = number("Content-Length", request.header("content-length")) or 0
        if size + length > self._limit(upload):
            raise BodyTooLarge(f"the body goes beyond the upload's {self._limit(upload)} bytes")
        if (checksum := request.header("upload-checksum")) is not None:
            Expected(checksum)

    def _limit(self, upload: Upload) -> int:
        return self._uploads().options.max_bytes if upload.length is None else upload.length

    def repeated(self, request: Request, upload: Upload) -> Response:
        """Answer a PATCH of an upload that has all its bytes."""
        _check_offset(request, upload.received)
        if request.has_body and request.header("content-length") != "0":
            raise BodyTooLarge(f"the body goes beyond the upload's {upload.received} bytes")
        return self.appended(upload)

    async def lengthened(self, request: Request, upload: Upload) -> Upload:
        """Set the length of an upload that was created without one, if the request tells it."""
        length = number(LENGTH, request.header("upload-length"))
        if length is None or length == upload.length:
            return upload
        if upload.length is not None:
            raise bad_header(LENGTH, f"it was {upload.length} before, and never changes")
        uploads = self._uploads()
        check_length(length, uploads.options.max_bytes)
        at = number(OFFSET, request.header("upload-offset")) or 0
        if length < at:
            raise bad_header(LENGTH, "the upload is longer already")
        await uploads.change(upload, length=length)
        return replace(upload, length=length)

    # the bytes

    async def append(
        self, request: Request, upload: Upload, turn: Turn, size: int, *, read: bool = True
    ) -> Upload:
        """Append the body to the `size` bytes that are there; return the upload as it is then.

        Raises ChecksumMismatch and BodyTooLarge, of which nothing is kept; CallerGone if the caller
        has to come again; OSError. What has arrived before is kept.
        """
        if not read:
            return await self._uploads().settle(upload, size)
        checksum = request.header("upload-checksum")
        if checksum is None:
            end, size = await self._write(request, upload, turn, size, None)
            upload = await self._uploads().settle(upload, size)
            if end != "whole":
                raise CallerGone(f"the body of an upload was not received whole ({end})")
            return upload
        return await self._append_checked(request, upload, turn, size, Expected(checksum))

    async def _append_checked(
        self, request: Request, upload: Upload, turn: Turn, size: int, expected: Expected
    ) -> Upload:
        uploads = self._uploads()
        await uploads.change(upload, kept_to=size)
        is_right = False
        try:
            end, now = await self._write(request, upload, turn, size, expected)
            is_right = end == "whole" and expected.is_right()
        finally:
            if not is_right:
                await uploads.cut(upload, turn, size)
        if is_right:
            return await uploads.settle(upload, now)
        if end == "whole":
            raise ChecksumMismatch("the body has another checksum; nothing of it was kept")
        raise CallerGone(f"the body of an upload was not received whole ({end})")

    async def _write(
        self, request: Request, upload: Upload, turn: Turn, size: int, expected: Expected | None
    ) -> tuple[End, int]:
        """Write the body; return how it ended, and how many bytes the upload has then."""
        uploads = self._uploads()
        update = None if expected is None else expected.digest.update
        writer = Writer(turn.fd, size, uploads.threads, update)
        limit, idle = self._limit(upload), uploads.options.idle
        try:
            end = await receive_body(request.receive, writer, turn, limit=limit, idle=idle)
            await writer.finish()
        finally:
            await writer.end()
            self._arrived(writer.offset - size)
        if end == "too_large":
            await uploads.cut(upload, turn, size)
            raise BodyTooLarge(f"the body goes beyond the upload's {limit} bytes")
        return end, writer.offset

    def appended(self, upload: Upload) -> Response:
        headers = {
            "upload-offset": str(upload.received),
            "upload-expires": date(upload.expires),
            "x-upload-status": upload.status,
        }
        return Response(status_code=204, headers=headers)


def _check_offset(request: Request, size: int) -> None:
    """Raise BadRequest, or UploadConflict if a PATCH does not begin after `size` bytes."""
    offset = number(OFFSET, request.header("upload-offset"))
    if offset is None:
        raise bad_header(OFFSET, "it is missing")
    if offset != size:
        raise UploadConflict(
            f"the upload has {size} bytes",
            headers=((b"upload-offset", b"%d" % size),),
        )
