"""POST /v1/jobs, and the jobs that it creates: one text each, sent as a prompt or as a message."""

import uuid
from collections.abc import Callable

import msgspec
from msgspec import UNSET, UnsetType
from starlette.responses import Response
from starlette.routing import BaseRoute

from gateway import NOT_JSON, BadRequest, ControlRequest, Host
from gateway_plugins.batch.doors.looking import Looking
from gateway_plugins.batch.doors.objects import JSON, Found, Progress, error_of
from gateway_plugins.batch.doors.submitting import Asked, Members, Submitting, taken
from gateway_plugins.batch.engine import Engine
from gateway_plugins.batch.options import Options
from gateway_plugins.batch.queue import reading
from gateway_plugins.batch.queue.items import COMPLETED, ERROR, STATES

SCOPE = "batch"

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"

ESTIMATE = 5.0
"""Seconds that a job is said to take if its caller does not say."""

OWN = frozenset(("input", "priority", "estimate_s"))
"""Members of a job that no worker gets."""

MADE = {CHAT: "messages", COMPLETION: "prompt"}
"""The member of the request to the worker that is made of `input`."""


class Created(msgspec.Struct):
    job_id: str


class Job(Progress, kw_only=True):
    """A job; times are Unix seconds.

    `result` is the engine's response as JSON text, `retry_count` counts repetitions.
    """

    job_id: str
    model: str
    input: msgspec.Raw
    priority: int
    estimate_s: float
    submit_ts: float
    status: str
    retry_count: int
    started_ts: float | UnsetType = UNSET
    finished_ts: float | UnsetType = UNSET
    result: str | UnsetType = UNSET
    error: str | UnsetType = UNSET
    error_type: str | UnsetType = UNSET
    error_code: str | UnsetType = UNSET


class Jobs:
    """The door of jobs."""

    def __init__(self, gateway: Host, engine: Callable[[], Engine], options: Options) -> None:
        self._storage = gateway.storage
        self._path = CHAT if options.jobs_as == "chat" else COMPLETION
        self._submitting = Submitting(gateway, engine)
        self._looking = Looking(gateway, engine, "job")

    def routes(self, gateway: Host) -> list[BaseRoute]:
        one = "/v1/jobs/{item_id}"
        return [
            gateway.control("/v1/jobs", scope=SCOPE, POST=self._submit),
            gateway.control(one, scope=SCOPE, GET=self._show, DELETE=self._cancel),
        ]

    async def _submit(self, request: ControlRequest) -> Created:
        members = await self._submitting.members(request)
        estimate = taken(members, "estimate_s", float)
        asked = Asked(
            str(uuid.uuid4()),
            "job",
            self._path,
            members,
            request_of(members, self._path),
            ESTIMATE if estimate is None else estimate,
        )
        return Created(await self._submitting.submit(request, asked))

    async def _show(self, request: ControlRequest) -> Response:
        return await self._shown(await self._looking.show(request))

    async def _cancel(self, request: ControlRequest) -> Response:
        return await self._shown(await self._looking.cancel(request))

    async def _shown(self, found: Found) -> Response:
        number = found.item.number
        sent = await self._storage.read(lambda db: reading.body_of(db, number))
        return Response(msgspec.json.encode(_job(found, sent)), media_type=JSON)


def request_of(members: Members, path: str) -> bytes:
    """Return the request to a worker: `input` as the path takes a text, and all other members.

    Raises BadRequest if there is no `input`, or what is made of it is there already.
    """
    text = members.get("input")
    if text is None or not bytes(text).startswith(b'"'):
        raise BadRequest("`input` in the request body must be a string", param="input")
    made = MADE[path]
    if made in members:
        raise BadRequest(f"a job has `input` in place of `{made}`", param=made)
    kept = {name: one for name, one in members.items() if name not in OWN}
    if path == COMPLETION:
        return msgspec.json.encode({**kept, made: text})
    return msgspec.json.encode({**kept, made: [{"role": "user", "content": text}]})


class _Message(msgspec.Struct):
    content: msgspec.Raw


class _Sent(msgspec.Struct):
    prompt: msgspec.Raw = msgspec.Raw(b"null")
    messages: list[_Message] = []


def input_of(sent: bytes) -> msgspec.Raw:
    """Return the `input` of the job that a request was made of; null if it is not stored."""
    try:
        found = msgspec.json.decode(sent, type=_Sent)
    except NOT_JSON:
        return msgspec.Raw(b"null")
    return found.messages[0].content if found.messages else found.prompt


def _job(found: Found, sent: bytes) -> Job:
    item = found.item
    made = Job(
        job_id=item.id,
        model=item.model,
        input=input_of(sent),
        priority=item.priority,
        estimate_s=ESTIMATE if item.estimate is None else item.estimate,
        submit_ts=item.submitted,
        status=STATES[item.state],
        retry_count=max(item.attempts - 1, 0),
        started_ts=UNSET if item.started is None else item.started,
        finished_ts=UNSET if item.finished is None else item.finished,
    )
    if item.state == COMPLETED:
        made.result = (found.answer or b"").decode("utf-8", "replace")
    elif item.state == ERROR:
        error = error_of(item)
        made.error, made.error_code = error.message, error.code
        made.error_type = _type_of(found.answer)
    return made.fill(item)


class _Inner(msgspec.Struct, frozen=True):
    type: str | None = None


class _Envelope(msgspec.Struct):
    error: _Inner = _Inner()
    type: str | None = None


def _type_of(answer: bytes | None) -> str:
    """Return the type of an error as the response names it, in one of the engines' two forms."""
    try:
        found = msgspec.json.decode(answer or b"", type=_Envelope)
    except NOT_JSON:
        found = _Envelope()
    return found.error.type or found.type or "server_error"
