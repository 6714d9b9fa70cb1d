"""Reads the requests that submit one item, and queues the item."""

import hashlib
import time
from collections.abc import Callable
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from gateway import (
    NOT_JSON,
    BadRequest,
    BodyTooLarge,
    ControlRequest,
    Forbidden,
    Host,
    NotFound,
    Principal,
)
from gateway_plugins.batch.doors.access import owner_of
from gateway_plugins.batch.engine import Engine
from gateway_plugins.batch.options import MAX_PRIORITY, MIN_PRIORITY
from gateway_plugins.batch.queue.items import Kind, NewItem
from gateway_plugins.batch.queue.submission import Submission

T = TypeVar("T")

Members = dict[str, msgspec.Raw]
"""A JSON object: its members as they came."""

MAX_DEADLINE = 7 * 86_400.0
"""Seconds that a caller may give an item."""

MAX_KEY = 255
"""Characters of an Idempotency-Key."""

MAX_NAME = 200
"""Characters of a model's name that an error repeats."""


class SubmitQuery(msgspec.Struct, forbid_unknown_fields=True):
    """`deadline`: seconds within which the item has to end; None: those of the options."""

    deadline: Annotated[float, Meta(gt=0, le=MAX_DEADLINE)] | None = None


class Asked(msgspec.Struct):
    """What an item is made of. `estimate`: seconds, as the caller of a job estimates them."""

    id: str
    kind: Kind
    path: str
    members: Members
    body: bytes
    estimate: float | None = None


class Submitting:
    """Queues items for the callers of `gateway`."""

    def __init__(self, gateway: Host, engine: Callable[[], Engine]) -> None:
        self._gateway = gateway
        self._engine = engine

    async def members(self, request: ControlRequest) -> Members:
        """Return the members of the request's body. Raises BadRequest, BodyTooLarge."""
        body, most = await request.body(), self._engine().options.max_body_bytes
        if len(body) > most:
            raise BodyTooLarge(
                f"the request body has {len(body)} bytes, and an item at most {most}"
                " (max_body_bytes of the plugin batch)"
            )
        try:
            body.decode()  # msgspec does not look into strings that are passed on
        except UnicodeDecodeError as error:
            message = f"the byte 0x{body[error.start]:02x} at position {error.start} is not UTF-8"
            full = f"the request body is not valid JSON: {message}"
            raise BadRequest(full, code="invalid_json") from None
        return await request.json(Members)

    async def submit(self, request: ControlRequest, asked: Asked) -> str:
        """Queue an item; return its id, or that of the item which the request repeats.

        Raises BadRequest, Forbidden, NotFound, Conflict, TooManyRequests.
        """
        query, engine, now = request.query(SubmitQuery), self._engine(), time.time()
        model = await self._model(request, asked.members)
        owner = owner_of(request)
        item = NewItem(
            id=asked.id,
            kind=asked.kind,
            path=asked.path,
            model=model,
            priority=priority_of(asked.members),
            body=asked.body,
            submitted=now,
            deadline=now + (query.deadline or engine.options.deadline),
            estimate=asked.estimate,
            traceparent=request.traceparent,
        )
        repeats = await _submission(request, owner.id, query)
        return await engine.submit(owner, [item], repeats)

    async def _model(self, request: ControlRequest, members: Members) -> str:
        """Return the model of an item, which a worker serves and the caller may use."""
        model = self._gateway.config.model or taken(members, "model", str)
        if not model:
            raise BadRequest("the request body names no model", param="model")
        principal = request.principal
        if principal is not None and principal.models is not None and model not in principal.models:
            raise Forbidden(
                f"this key is not for the model `{model[:MAX_NAME]}`",
                param="model",
                code="model_not_allowed",
            )
        if not self._is_served(model, principal):
            await self._gateway.workers.refresh_models()  # it may have been loaded just now
            if not self._is_served(model, principal):
                raise NotFound(
                    f"The model `{model[:MAX_NAME]}` does not exist: no worker serves it.",
                    param="model",
                    code="model_not_found",
                )
        return model

    def _is_served(self, model: str, principal: Principal | None) -> bool:
        """Whether a worker has the model, or may get it; so says, too, a gateway with none."""
        workers = self._gateway.workers
        able = workers.serving(model).all
        if principal is not None and principal.workers is not None:
            able = tuple(worker for worker in able if worker.id in principal.workers)
        return bool(able) or workers.may_load(model) or not (workers.all or workers.loadable)


async def _submission(request: ControlRequest, owner: str, query: SubmitQuery) -> Submission | None:
    key = request.header("idempotency-key")
    if key is None:
        return None
    if not 0 < len(key) <= MAX_KEY:
        raise BadRequest(f"an Idempotency-Key has 1 to {MAX_KEY} characters")
    named = f"{request.path}\n{query.deadline}\n".encode()
    return Submission(owner, key, hashlib.sha256(named + await request.body()).digest())


def priority_of(members: Members) -> int:
    """Return the priority that the body names, within the bounds; 1 if it names none."""
    priority = taken(members, "priority", int)
    return 1 if priority is None else min(max(priority, MIN_PRIORITY), MAX_PRIORITY)


def taken(members: Members, name: str, type_: type[T]) -> T | None:
    """Return a member as this type; None if it is null or absent.

    Raises BadRequest, which names the member, if it is anything else.
    """
    raw = members.get(name)
    if raw is None or bytes(raw) == b"null":
        return None
    try:
        return msgspec.json.decode(raw, type=type_)
    except NOT_JSON as error:
        raise BadRequest(f"`{name}` in the request body: {error}", param=name) from None
