"""Calls without a network: builds a call, and runs an observer over a scripted response."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import MappingProxyType

import msgspec

from gateway.calls.body import Body
from gateway.calls.call import Call
from gateway.calls.observers import LogExtra
from gateway.calls.records import Answer, Outcome
from gateway.config import Config
from gateway.errors import UpstreamClosed
from gateway.fleet.registry import Workers
from gateway.headers import Headers
from gateway.pipeline.proxy import Proxy
from gateway.plugins.chains import Chains, Failures, Hook
from gateway.storage import Storage

MESSAGES: Sequence[Mapping[str, str]] = (MappingProxyType({"role": "user", "content": "Hello"}),)
"""A short chat."""

DONE = b"data: [DONE]\n\n"
"""The event that ends a stream of chat or completions."""

NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class RecordingCaller:
    """A gateway.calls.reply.Caller that records the response.

    `status` is 0 until the head is sent; `chunks` are the pieces of the body as written; `is_cut`:
    the response was broken off; `is_ended`: it is complete. While `is_full`, `write` returns False
    and the sender must wait until `drained` is called.
    """

    def __init__(self) -> None:
        self.drained: Callable[[], None] = lambda: None
        self.status = 0
        self.headers: Headers = ()
        self.chunks: list[bytes] = []
        self.is_full = self.is_cut = self.is_ended = False

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    def start(self, status: int, headers: Headers) -> None:
        self.status, self.headers = status, headers

    def write(self, data: bytes) -> bool:
        self.chunks.append(data)
        return not self.is_full

    def cut(self) -> None:
        self.is_cut = True

    async def end(self, data: bytes) -> None:
        self.chunks.append(data)
        self.is_ended = True


class RecordedCall(Call):
    """A Call with a RecordingCaller as its `caller`."""

    __slots__ = ("caller",)
    caller: RecordingCaller


def make_call(
    body: Mapping[str, object] | bytes | None = None,
    *,
    path: str = "/v1/chat/completions",
    headers: Mapping[str, str] = NO_HEADERS,
    method: str = "POST",
    query: bytes = b"",
    session_id: str | None = None,
) -> RecordedCall:
    """Build a call as the HTTP server would. `body` None: a short chat for the model `sim`."""
    if body is None:
        body = {"model": "sim", "messages": [dict(message) for message in MESSAGES]}
    caller = RecordingCaller()
    call = RecordedCall(
        caller,
        method=method,
        path=path,
        query=query,
        headers=[(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in headers.items()],
        body=Body(body if isinstance(body, bytes) else msgspec.json.encode(body)),
        session_id=session_id,
    )
    call.caller = caller
    return call


def sse(*events: Mapping[str, object] | str) -> bytes:
    """Encode server-sent events: a mapping becomes JSON, a text is used unchanged."""
    data = [e.encode() if isinstance(e, str) else msgspec.json.encode(e) for e in events]
    return b"".join([b"data: %b\n\n" % one for one in data])


async def drive(
    observer: object,
    *chunks: bytes,
    call: RecordedCall | None = None,
    status: int = 200,
    content_type: str = "text/event-stream",
    broken: bool = False,
) -> RecordedCall:
    """Run a call through the core with `chunks` as its response and `observer`; return the call.

    Each chunk is one read from the worker. For a response that is not a stream, pass
    `application/json`; `broken`: the worker breaks off after the last chunk. Raises the observer's
    first exception after the call has ended.
    """
    call = make_call() if call is None else call

    async def body() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk
        if broken:
            raise UpstreamClosed("the worker broke off before its answer was whole")

    async def handle(_: Call) -> Answer:
        return Answer(status, [(b"content-type", content_type.encode("latin-1"))], body())

    failures = _Raised()
    settings = Config()
    chains = Chains(
        failures,
        handle=(Hook("worker", handle),),
        observe=(Hook("observer", lambda _: observer),),
    )
    await Proxy(chains, Workers(settings), settings, Storage(settings, ())).dispatch(call)
    if failures.errors:
        raise failures.errors[0]
    return call


class _Raised(Failures):
    """Stores the observer's exceptions for the test instead of counting them."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[BaseException] = []

    def note(
        self,
        plugin: str,
        hook: str,
        outcome: Outcome,
        error: BaseException,
        log_extra: LogExtra = dict,
    ) -> None:
        self.errors.append(error)
