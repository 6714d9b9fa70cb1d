"""Lets a client's retry of a call that still runs have that call's response.

`asked.py` reads what a request says of itself. `response.py` keeps a response while it passes to
the caller, and lets the call go on after the caller has left. `shelf.py` finds the response that a
retry asks for, and bounds all of them in memory and time.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Literal

from gateway import (
    Answer,
    Answered,
    Call,
    CallError,
    Headers,
    Host,
    Outcome,
    Sample,
    StateKey,
    hookimpl,
    outlast,
)
from gateway_plugins.join_retries.asked import Request, request_of, said_by
from gateway_plugins.join_retries.options import Options
from gateway_plugins.join_retries.response import KeptResponse
from gateway_plugins.join_retries.shelf import Responses

Way = Literal["idempotency_key", "count", "same_body"]

OF_THE_FIRST = frozenset({b"server-timing", b"x-request-id"})
"""Headers that are the first call's own."""

JOINED: StateKey[KeptResponse] = StateKey("join_retries")


class KeyReused(CallError):
    """An Idempotency-Key came with another request than before."""

    status = 422
    code = "idempotency_key_reused"
    type = "invalid_request_error"


class JoinRetries:
    """The plugin."""

    after = ("auth", "sessions")

    Config = Options

    def __init__(self, config: Options) -> None:
        self._responses = Responses(config)
        self._joined: dict[Way, int] = {"idempotency_key": 0, "count": 0, "same_body": 0}
        self._take(config)

    def _take(self, config: Options) -> None:
        self._options = self._responses.options = config
        self._counting = frozenset(name.lower().encode() for name in config.count_headers)

    @hookimpl
    def reconfigure(self, config: Options) -> None:
        self._take(config)

    @hookimpl
    @contextlib.asynccontextmanager
    async def lifespan(self, gateway: Host) -> AsyncIterator[None]:
        ending = asyncio.create_task(self._end_at_shutdown(gateway))
        try:
            yield
        finally:
            ending.cancel()
            self._responses.clear()

    async def _end_at_shutdown(self, gateway: Host) -> None:
        await gateway.until_draining()
        self._responses.closing = True
        for kept in self._responses.alone():
            kept.give_up()

    @hookimpl
    def admit(self, call: Call) -> Awaitable[None] | None:
        if call.method != "POST" or call.frontend != "http":
            return None
        key, retries = said_by(call, self._counting)
        by_body = self._options.same_body is not None and call.session_id is not None
        if key is None and retries is None and not by_body:
            return None
        if call.body.data is None:
            return self._read_and_admit(call, key, retries)
        return self._decide(call, key, retries)

    async def _read_and_admit(self, call: Call, key: str | None, retries: int | None) -> None:
        await call.body.read()
        if (joining := self._decide(call, key, retries)) is not None:
            await joining

    def _decide(self, call: Call, key: str | None, retries: int | None) -> Awaitable[None] | None:
        """Join the call that is repeated, or keep the response to this one."""
        request = request_of(call, key)
        if key is not None or retries or self._options.same_body is not None:
            found = self._found(request, retries or 0)
            if found is not None:
                return self._join(call, request, *found)
        self._keep(call, request)
        return None

    def _found(self, request: Request, retries: int) -> tuple[KeptResponse, Way] | None:
        """Return the response of the call that is repeated. Raises KeyReused."""
        responses, same_body = self._responses, self._options.same_body
        if request.key is not None and (kept := responses.of_key(request)) is not None:
            if (request.place, request.body) != (kept.request.place, kept.request.body):
                raise KeyReused(
                    "this Idempotency-Key was used for another request: use a new one for each "
                    "request, and the same one for its retries only",
                    param="idempotency-key",
                )
            return kept, "idempotency_key"
        if retries and (kept := responses.left(request)) is not None:
            return kept, "count"
        if same_body is not None and request.has_session:
            kept = responses.left(request, same_body)
            return None if kept is None else (kept, "same_body")
        return None

    def _keep(self, call: Call, request: Request) -> None:
        kept = KeptResponse(call, request, self._responses)
        if self._responses.add(kept):
            behind = outlast(call, kept)
            if behind is None:
                self._responses.drop(kept)
            else:
                kept.stand_before(behind)

    async def _join(self, call: Call, request: Request, kept: KeptResponse, way: Way) -> None:
        """Answer with the response of another call, or return if there will be none."""
        kept.follow()
        call.state[JOINED] = kept
        if not await kept.head():
            del call.state[JOINED]
            kept.unfollow(got_all=False)
            self._keep(call, request)
            return
        self._joined[way] += 1
        call.recorded = False  # the first call has the trace
        call.runs_again = _is_no_request
        raise Answered(_answer(kept))

    @hookimpl
    def call_finished(self, call: Call, outcome: Outcome) -> None:
        kept = call.state.get(JOINED)
        if kept is not None:
            kept.unfollow(got_all=outcome.result == "success")

    @hookimpl
    def samples(self) -> Iterator[Sample]:
        help_ = "Retries that got the response of the call that they repeat."
        for way, count in self._joined.items():
            yield Sample("gateway_retries_joined_total", "counter", count, help_, {"by": way})
        help_ = "Calls that go on although nobody gets their response now."
        alone = len(self._responses.alone())
        yield Sample("gateway_retries_awaited", "gauge", alone, help_)
        help_ = "Bytes of memory for responses that a retry may ask for."
        yield Sample("gateway_retries_kept_bytes", "gauge", self._responses.used, help_)
        help_ = "Responses that were not kept for a retry, for lack of room."
        dropped = self._responses.dropped
        yield Sample("gateway_retries_dropped_total", "counter", dropped, help_)


def _answer(kept: KeptResponse) -> Answer:
    headers: Headers = [
        *(line for line in kept.headers or () if line[0] not in OF_THE_FIRST),
        (b"idempotent-replayed", b"true"),
        (b"x-gateway-joined", kept.call_id.encode()),
    ]
    if kept.state == "whole":
        return Answer(kept.status, headers, b"".join(kept.pieces))
    return Answer(kept.status, headers, kept.body())


def _is_no_request(call: Call) -> bool:
    return True
