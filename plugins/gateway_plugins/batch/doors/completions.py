"""POST /v1/batch/completions and /v1/batch/chat/completions, and the items that they create."""

import secrets
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec
from starlette.responses import Response
from starlette.routing import BaseRoute

from gateway import ControlRequest, Host
from gateway_plugins.batch.doors.looking import Looking
from gateway_plugins.batch.doors.objects import JSON, find, shown
from gateway_plugins.batch.doors.submitting import Asked, Submitting
from gateway_plugins.batch.engine import Engine
from gateway_plugins.batch.queue.items import QUEUED, STATES, Kind

SCOPE = "batch"


class Form(NamedTuple):
    """One of the two doors. `worker_path` is the path of the call for an item."""

    path: str
    kind: Kind
    worker_path: str
    prefix: str


FORMS = (
    Form("/v1/batch/completions", "completion", "/v1/completions", "cmpl-"),
    Form("/v1/batch/chat/completions", "chat_completion", "/v1/chat/completions", "chatcmpl-"),
)


class Accepted(msgspec.Struct):
    """What POST returns. The item is found at `status_url`."""

    id: str
    status: str
    status_url: str


class Completions:
    """One of the two doors."""

    def __init__(self, gateway: Host, engine: Callable[[], Engine], form: Form) -> None:
        self._form = form
        self._storage = gateway.storage
        self._submitting = Submitting(gateway, engine)
        self._looking = Looking(gateway, engine, form.kind)

    def routes(self, gateway: Host) -> list[BaseRoute]:
        path = self._form.path
        one = f"{path}/{{item_id}}"
        return [
            gateway.control(path, scope=SCOPE, POST=self._submit),
            gateway.control(one, scope=SCOPE, GET=self._show, DELETE=self._cancel),
        ]

    async def _submit(self, request: ControlRequest) -> Response:
        form = self._form
        members = await self._submitting.members(request)
        new_id = form.prefix + secrets.token_hex(12)
        body = await request.body()
        if "priority" in members:
            body = without(members, "priority")
        asked = Asked(new_id, form.kind, form.worker_path, members, body)
        item_id = await self._submitting.submit(request, asked)
        status = STATES[QUEUED] if item_id == new_id else await self._status(item_id)
        accepted = Accepted(item_id, status, f"{form.path}/{item_id}")
        return Response(msgspec.json.encode(accepted), 202, media_type=JSON)

    async def _status(self, item_id: str) -> str:
        """Return the status of an item that was submitted before."""
        found = await self._storage.read(lambda db: find(db, item_id, None))
        return STATES[QUEUED if found is None else found.item.state]

    async def _show(self, request: ControlRequest) -> Response:
        return shown(await self._looking.show(request))

    async def _cancel(self, request: ControlRequest) -> Response:
        return shown(await self._looking.cancel(request))


def without(members: Mapping[str, msgspec.Raw], *names: str) -> bytes:
    """Return the JSON object without these members; the others keep their bytes and their order."""
    return msgspec.json.encode({name: one for name, one in members.items() if name not in names})
