"""The routes of uploads."""

from collections.abc import Callable

from starlette.routing import BaseRoute

from gateway import BadRequest, ControlRequest, Host, NotFound
from gateway_plugins.batch.doors.access import owner_of, visible_to
from gateway_plugins.batch.doors.files import objects
from gateway_plugins.batch.doors.files.receiving import received
from gateway_plugins.batch.doors.files.routes import SCOPES
from gateway_plugins.batch.doors.uploads.objects import (
    Completion,
    NewUpload,
    PartObject,
    UploadObject,
    shown,
    shown_part,
)
from gateway_plugins.batch.engine import Engine
from gateway_plugins.batch.uploads.rows import StoredUpload
from gateway_plugins.batch.uploads.uploads import Uploads


def upload_routes(gateway: Host, engine: Callable[[], Engine]) -> list[BaseRoute]:
    """Return the routes of uploads."""
    doors = UploadDoors(engine)
    one = "/v1/uploads/{upload_id}"
    return [
        gateway.control("/v1/uploads", scope=SCOPES, POST=doors.begin),
        gateway.control(f"{one}/parts", scope=SCOPES, POST=doors.add_part),
        gateway.control(f"{one}/complete", scope=SCOPES, POST=doors.complete),
        gateway.control(f"{one}/cancel", scope=SCOPES, POST=doors.cancel),
    ]


class UploadDoors:
    """The handlers."""

    def __init__(self, engine: Callable[[], Engine]) -> None:
        self._engine = engine

    @property
    def _uploads(self) -> Uploads:
        return self._engine().uploads

    async def begin(self, request: ControlRequest) -> UploadObject:
        """Begin an upload."""
        new = await request.json(NewUpload)
        upload = await self._uploads.begin(
            owner=owner_of(request).id,
            filename=new.filename,
            purpose=objects.checked_purpose(new.purpose),
            size=new.bytes,
            seconds=None if new.expires_after is None else new.expires_after.seconds,
        )
        return shown(upload)

    async def add_part(self, request: ControlRequest) -> PartObject:
        """Store a part of an upload."""
        upload = await self._found(request)
        room = await self._uploads.room(upload)
        files = self._uploads.files
        async with received(request, files, "data", lambda _: room, room) as got:
            if not got.part.size:
                raise BadRequest("the part is empty", param="data")
            return shown_part(await self._uploads.keep(upload, got.part))

    async def complete(self, request: ControlRequest) -> UploadObject:
        """Join the parts of an upload to a file."""
        upload = await self._found(request)
        body = await request.json(Completion)
        upload = await self._uploads.complete(upload, body.part_ids, body.md5)
        file = await self._uploads.files.find(upload.file or "", upload.owner)
        return shown(upload, None if file is None else objects.shown(file))

    async def cancel(self, request: ControlRequest) -> UploadObject:
        """Cancel an upload. Whatever the body is, it does not matter."""
        return shown(await self._uploads.cancel(await self._found(request)))

    async def _found(self, request: ControlRequest) -> StoredUpload:
        upload_id = request.params["upload_id"]
        upload = await self._uploads.find(upload_id, visible_to(request))
        if upload is None:
            message = f"there is no upload `{upload_id[:100]}`, or it has expired"
            raise NotFound(message, param="upload_id")
        return upload
