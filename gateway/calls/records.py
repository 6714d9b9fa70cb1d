"""The records of a call: its principal, its attempts at workers, and its outcome."""

from collections.abc import AsyncIterable, Mapping
from itertools import zip_longest
from typing import Literal, Protocol

import msgspec

from gateway.errors import CallError, GatewayError
from gateway.fleet.worker import Worker
from gateway.headers import Headers
from gateway.telemetry.trace_context import new_span_id
from gateway.trace import Result
from gateway.wire.dialect import Engine
from gateway.wire.injection import NO_INJECTIONS, Injection
from gateway.wire.reported.ending import ENGINE_ERROR, UNKNOWN, Ending
from gateway.wire.reported.usage import Usage
from gateway.wire.sse import Event

MAX_TOLD = 20
"""Maximum attempts that a response lists, the latest ones: a call that is held may have many."""

Source = Literal["realtime", "batch", "eval"]
"""Kind of work that a call belongs to."""

Wanted = str | tuple[str, ...]
"""The scope that a route requires; of several, one suffices."""


class Principal(msgspec.Struct, frozen=True):
    """The identity of a caller, set by an `authenticate` hook. `id` may be logged, a key never.

    `scopes` are its permissions, see gateway.pipeline.authorization. `models` (names) and
    `workers` (ids) are the only ones that it may use; None: any. `labels` are an operator's own
    tags, for plugins that distinguish principals.
    """

    id: str
    scopes: frozenset[str] = frozenset({"realtime"})
    models: frozenset[str] | None = None
    workers: frozenset[str] | None = None
    labels: Mapping[str, str] = {}


class Attempt(msgspec.Struct):
    """One try at a worker. Times are `time.monotonic()` seconds, None if not reached.

    `left_out` are the injections omitted this time because the worker rejected the attempt before
    with them. `last`: the response is forwarded whatever it says. `weight_version` is the
    worker's weight version when the attempt began, `weight_version_end` when it ended. `ending` is
    what the response itself says about its end; it is set before `attempt_finished`. `refused`: the
    worker counts as not asked: it refused the connection and is down since then, or (known only
    after `attempt_finished`) it refused the call and has not run it, and a plugin holds the call.
    `sent`: the first byte of the request goes to the worker. `connecting`: seconds spent on opening
    connections. `uploading`: seconds from `sent` until a body that streams was sent. `heard`: the
    part of the response came after which its head can go to the caller, nearly always the first.
    `tokens`: how many sampled tokens this attempt gave to a stream that another worker may carry
    on (see Continuation), None for all others.
    """

    worker: Worker
    started: float
    reused: bool = False
    connected: float | None = None
    sent: float | None = None
    first_byte: float | None = None
    ended: float | None = None
    status: int | None = None
    error: CallError | None = None
    left_out: frozenset[Injection] = NO_INJECTIONS
    last: bool = False
    weight_version: int | str | None = None
    weight_version_end: int | str | None = None
    ending: Ending = UNKNOWN
    refused: bool = False
    connecting: float = 0.0
    uploading: float = 0.0
    heard: float | None = None
    tokens: int | None = None
    _span_id: str = ""

    @property
    def span_id(self) -> str:
        """Id of the attempt's span, 16 hexadecimal digits; made when somebody asks for it."""
        self._span_id = self._span_id or new_span_id()
        return self._span_id

    @property
    def result(self) -> str:
        """The error's code, the status, or `gone` if the attempt ended without either."""
        if self.error is not None:
            return self.error.code
        return "gone" if self.status is None else str(self.status)


def told_attempts(attempts: list[Attempt]) -> str:
    """Return the list of attempts for a response, empty if there is one.

    Without those that were repeated because of the gateway's injections.
    """
    pairs = zip_longest(attempts, attempts[1:])
    told = [one for one, after in pairs if after is None or not after.left_out]
    ways = [f"{one.worker.id}={one.result}" for one in told][-MAX_TOLD:]
    return ", ".join(ways) if len(ways) > 1 else ""


class Outcome(msgspec.Struct):
    """The end of a call: what became of its connections, what its response says, and the judgement.

    `status` is 0 if the caller left before anything was sent. `complete` means that the whole
    response of the worker (or of the gateway itself) has arrived; its last bytes are about to be
    sent. `caller_gone`: the caller left before that, but it may have all that it wanted. `ending`
    is what the latest response itself says about its end. Ask `result` how the call went. `ttft`
    and `duration` are seconds from the call's start, `bytes_sent` is the size of the response body
    in bytes. `queue` is the seconds that the call has waited for room, `overhead` the gateway's own
    part of the time until the head of the response went to the caller, None until then, or if the
    caller was not identified. `failures` names the plugins whose isolated hooks failed: the records
    of these plugins are incomplete. `repeated`: the work of this internal call runs again in
    another call, or it got the response of another call, so it is no request of its own; it is
    known in `call_finished`.
    """

    status: int = 0
    complete: bool = False
    caller_gone: bool = False
    error: CallError | None = None
    ttft: float | None = None
    duration: float = 0.0
    bytes_sent: int = 0
    usage: Usage | None = None
    failures: list[str] = []
    ending: Ending = UNKNOWN
    repeated: bool = False
    queue: float = 0.0
    overhead: float | None = None

    @property
    def result(self) -> Result:
        """How the call went: the one judgement that traces, bills, metrics and logs share.

        What the response itself says comes first: an error, an abort, or that all was sampled.
        Only if it says none of these, the connections tell: the caller left, or a part is missing.
        """
        ending = self.ending
        if ending.error is not None:
            return "error"
        if ending.aborted:
            return "aborted"
        if ending.finished:
            return "success"
        if self.caller_gone:
            return "caller_gone"
        whole = self.complete and self.error is None and ending.finished is None
        return "success" if whole and self.status < 400 else "error"

    @property
    def error_code(self) -> str | None:
        """The code of the gateway's own error, or ENGINE_ERROR for an error of the engine that came
        under status 200 or inside a stream; None if there is neither."""
        if self.error is not None:
            return self.error.code
        hidden = self.ending.error is not None and self.status < 400
        return ENGINE_ERROR if hidden else None


class Continued(msgspec.Struct, frozen=True):
    """The request by which another worker carries a stream on: a POST of `body` to `path`."""

    path: str
    body: bytes


class Continuation(Protocol):
    """What has a stream carried on by another worker, if the one that sends it breaks off.

    A plugin sets it as `call.continuation` in `prepare`. Each whole event of status 200 passes it,
    before observers and the caller see it. A part of an event never does.
    """

    @property
    def tokens(self) -> int | None:
        """How many sampled tokens of the present attempt `event` has returned."""

    def event(self, event: Event) -> bytes:
        """Return what observers and the caller are to see now, whole events.

        Raises CallError if the event is no part of the answer: the attempt ends with that.
        """

    def end(self) -> bytes:
        """Return what was held back: the response of the worker is whole.

        Raises CallError if the response has no end, and is to be carried on.
        """

    def give_up(self, words: str) -> bytes:
        """Return what was held back: for the reason `words` no other worker carries it on.

        Later events do not pass.
        """

    def rest(self) -> bytes | None:
        """Return the end of a stream that broke off, if only that is missing, else None."""

    async def resume(self, worker: Worker) -> Continued | None:
        """Return the request for `worker`, whose events pass `event` next; None if it cannot."""


class Answer(msgspec.Struct):
    """The response of a `handle` hook, in place of a worker's.

    `body` is the whole body, or an asynchronous iterable of chunks (for SSE, events). `injected`:
    it is what a worker would send to the request with all that plugins inject, so the caller gets
    it without that, as a worker's. `engine` is the one whose own way of asking was taken for it.
    """

    status: int = 200
    headers: Headers = ()
    body: bytes | AsyncIterable[bytes] = b""
    injected: bool = False
    engine: Engine | None = None


class Answered(GatewayError):
    """Raised by an `admit` hook that answers the call: `answer` goes to the caller as it is.

    The call is not admitted: no further `admit` runs, no translation, and nobody observes it.
    """

    def __init__(self, answer: Answer) -> None:
        super().__init__("a plugin has answered the call")
        self.answer = answer
