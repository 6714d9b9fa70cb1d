"""The routes of files."""

from collections.abc import Callable

from starlette.routing import BaseRoute

from gateway import ControlRequest, Host, NotFound
from gateway_plugins.batch.doors.access import owner_of, visible_to
from gateway_plugins.batch.doors.files.content import Content
from gateway_plugins.batch.doors.files.form import Form
from gateway_plugins.batch.doors.files.objects import (
    Deleted,
    FileList,
    FileObject,
    ListQuery,
    checked_purpose,
    listed,
    seconds_of,
    shown,
)
from gateway_plugins.batch.doors.files.receiving import Received, received
from gateway_plugins.batch.engine import Engine
from gateway_plugins.batch.files.files import Files, new_file
from gateway_plugins.batch.files.rows import Page, StoredFile

SCOPES = ("batch", "upload")
"""Either opens the routes."""


def file_routes(gateway: Host, engine: Callable[[], Engine]) -> list[BaseRoute]:
    """Return the routes of files."""
    doors = FileDoors(gateway, engine)
    one = "/v1/files/{file_id}"
    return [
        gateway.control("/v1/files", scope=SCOPES, POST=doors.create, GET=doors.page),
        gateway.control(f"{one}/content", scope=SCOPES, GET=doors.content),
        gateway.control(one, scope=SCOPES, GET=doors.show, DELETE=doors.delete),
    ]


class FileDoors:
    """The handlers."""

    def __init__(self, gateway: Host, engine: Callable[[], Engine]) -> None:
        self._gateway = gateway
        self._engine = engine

    @property
    def _files(self) -> Files:
        return self._engine().files

    async def create(self, request: ControlRequest) -> FileObject:
        """Store the file of a form."""
        files, owner = self._files, owner_of(request).id
        await files.check_room(owner)
        most = max(files.options.max_batch_file_bytes, files.options.max_file_bytes)
        async with received(request, files, "file", self._limit, most) as got:
            file = self._new(owner, got)
            await files.keep(got.part, file)
        return shown(file)

    def _limit(self, form: Form) -> int:
        """Return the limit of the file, by what has arrived: clients send `purpose` first."""
        options = self._files.options
        if "purpose" in form.fields:
            return self._files.limit_of(checked_purpose(form.fields["purpose"]))
        return max(options.max_batch_file_bytes, options.max_file_bytes)

    def _new(self, owner: str, got: Received) -> StoredFile:
        form = got.form
        assert form.filename is not None  # it is whole
        return new_file(
            owner=owner,
            filename=form.filename,
            purpose=checked_purpose(form.fields.get("purpose")),
            size=got.part.size,
            seconds=seconds_of(form.fields) or self._files.options.keep_files,
        )

    async def page(self, request: ControlRequest) -> FileList:
        """List files."""
        query = request.query(ListQuery)
        wanted = Page(
            visible_to(request), query.limit, query.after, query.purpose, query.order == "asc"
        )
        return listed(await self._files.page(wanted), query.limit)

    async def show(self, request: ControlRequest) -> FileObject:
        """Show a file."""
        return shown(await self._found(request))

    async def content(self, request: ControlRequest) -> Content:
        """Send the content of a file."""
        file = await self._found(request)
        files, idle = self._files, self._gateway.config.timeouts.idle
        return Content(files.folder.content(file.id), file.filename, files.threads, idle)

    async def delete(self, request: ControlRequest) -> Deleted:
        """Delete a file; batches that read it still can."""
        file_id = request.params["file_id"]
        if not await self._files.delete(file_id, visible_to(request)):
            raise missing(file_id)
        return Deleted(id=file_id)

    async def _found(self, request: ControlRequest) -> StoredFile:
        file_id = request.params["file_id"]
        file = await self._files.find(file_id, visible_to(request))
        if file is None:
            raise missing(file_id)
        return file


def missing(file_id: str) -> NotFound:
    """Return the refusal of an id that is nobody's, or another key's."""
    return NotFound(f"there is no file `{file_id[:100]}`", param="file_id")
