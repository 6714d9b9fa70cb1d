"""What travels through the chain: a Call, its Attempts at workers, and its Outcome."""

import random
import re
import time
from collections.abc import AsyncIterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from gateway.body import Body, parse_object
from gateway.errors import CallError
from gateway.headers import Headers, get_header
from gateway.lifeline import Lifeline
from gateway.observing import UNOBSERVED
from gateway.refusing import NONE
from gateway.reply import Caller, Reply
from gateway.state import State
from gateway.storage.writer import Entry, Sink
from gateway.wire.dialects import Dialect, dialect_of
from gateway.wire.injection import Injection, Stripper, inject, rewrite
from gateway.wire.usage import Usage

if TYPE_CHECKING:
    from gateway.chains import Chains
    from gateway.worker import Worker

Source = Literal["realtime", "batch", "eval"]
"""What kind of work a call is for."""

BYTES_PER_TOKEN = 4
"""Of a request's body: English text has about so many letters for each token."""

ONLY_USAGE = ("usage",)

_NAME = re.compile(rb"[a-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


class Principal(msgspec.Struct, frozen=True):
    """Who calls, as an `authenticate` hook established it. `id` may be logged, a key never.

    `scopes` are what it may do, see gateway.permission. It may use `models` and `workers` (ids)
    only; None: any. `labels` are an operator's own words, for plugins that tell principals apart.
    """

    id: str
    scopes: frozenset[str] = frozenset({"realtime"})
    models: frozenset[str] | None = None
    workers: frozenset[str] | None = None
    labels: Mapping[str, str] = {}


class Attempt(msgspec.Struct):
    """One try at a worker. Times are `time.monotonic()` seconds; None: it did not get that far.

    `left_out` is what was not injected this time, because the try before was refused with it.
    `last`: its answer is passed on whatever its status. `weight_version` is that of the worker's
    weights when the attempt began, `weight_version_end` when it ended.
    """

    worker: "Worker"
    started: float
    reused: bool = False
    connected: float | None = None
    first_byte: float | None = None
    ended: float | None = None
    status: int | None = None
    error: CallError | None = None
    left_out: frozenset[Injection] = NONE
    last: bool = True
    weight_version: int | str | None = None
    weight_version_end: int | str | None = None

    def said(self) -> str:
        """How it went, in a word: the status, or the code of the error."""
        if self.error is not None:
            return self.error.code
        return "gone" if self.status is None else str(self.status)


class Outcome(msgspec.Struct):
    """How a call ended, as its caller saw it.

    `status` is 0 when the caller left before it could be told anything; `complete` means that the
    worker's whole answer came (or the gateway's own), and then its last bytes are about to be sent;
    `ttft` and `duration` are seconds from the call's start; `bytes_sent` counts the answer's body.
    `failures` names the plugins whose isolated hooks broke: what they recorded is not whole.
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


class Answer(msgspec.Struct):
    """What a `handle` hook says in a worker's place.

    `body` is whole, or comes as an asynchronous iterable of chunks (for SSE, events).
    """

    status: int = 200
    headers: Headers = ()
    body: bytes | AsyncIterable[bytes] = b""


class _Model(msgspec.Struct):
    model: str | None = None


class Call:
    """One request on its way through the gateway, and what plugins came to know about it.

    `path` is as the caller sent it after any session prefix, percent-encoding kept and without the
    query; `headers` are the caller's own. `started` is `time.monotonic()`, `created` is Unix time.
    `source` says what kind of work it is for: realtime, batch or eval. An `internal` call is one of
    the gateway's own jobs: nobody is asked who calls, `principal` is whom the job is for, or None.
    `scope` is what the principal needs where it is not that of all calls, see gateway.permission.
    """

    __slots__ = (
        "_added",
        "_changes",
        "_json",
        "_model",
        "_trace_id",
        "_wanted",
        "answer_headers",
        "attempts",
        "body",
        "caller",
        "chains",
        "client",
        "counts_tokens",
        "created",
        "dialect",
        "entries",
        "headers",
        "id",
        "internal",
        "lifeline",
        "method",
        "observers",
        "outcome",
        "path",
        "principal",
        "query",
        "reply",
        "scope",
        "session_id",
        "source",
        "started",
        "state",
        "stripper",
    )

    def __init__(
        self,
        caller: Caller,
        *,
        method: str,
        path: str,
        query: bytes = b"",
        headers: Headers = (),
        body: Body | None = None,
        session_id: str | None = None,
        client: str | None = None,
        principal: Principal | None = None,
        source: Source = "realtime",
        internal: bool = False,
        scope: str | None = None,
    ) -> None:
        self.caller = caller
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.body = body or Body(b"")
        self.session_id = session_id
        self.client = client
        self.id = request_id(get_header(headers, b"x-request-id"))
        self.started = time.monotonic()
        self.created = time.time()
        self.dialect: Dialect | None = dialect_of(path)
        self.principal = principal
        self.source: Source = source
        self.internal = internal
        self.scope = scope
        self.attempts: list[Attempt] = []
        self.outcome = Outcome()
        self.reply = Reply(caller, self.outcome, self.started)
        self.observers = UNOBSERVED
        self.lifeline = Lifeline()
        self.state = State()
        self.entries: list[Entry] = []
        self.stripper: Stripper | None = None
        self.counts_tokens = False
        self.answer_headers: list[tuple[bytes, bytes]] | None = None
        self.chains: Chains
        self._trace_id: str | None = None
        self._json: dict[str, Any] | None = None
        self._model: _Model | None = None
        self._changes: dict[str, object] | None = None
        self._added: dict[str, object] | None = None
        self._wanted: set[Injection] | None = None

    def header(self, name: str) -> str | None:
        """The first value of a request header, whatever the case of `name`."""
        value = get_header(self.headers, name.lower().encode("latin-1"))
        return None if value is None else value.decode("latin-1")

    @property
    def trace_id(self) -> str:
        """The gateway's own name of this call, which no other has; `id` is as its caller chose it.

        32 hexadecimal digits: 12 of the time in milliseconds, as UUID 7 begins, then chance.
        """
        if self._trace_id is None:
            self._trace_id = f"{int(self.created * 1000):012x}{random.getrandbits(80):020x}"
        return self._trace_id

    @property
    def prompt_estimate(self) -> int:
        """About how many tokens the prompt has: one for each four bytes of the request's body."""
        return (self.body.length or len(self.body.data or b"")) // BYTES_PER_TOKEN

    @property
    def completion_so_far(self) -> int:
        """About how many tokens of a stream have come, where somebody has them counted."""
        return self.observers.tokens_so_far

    @property
    def worker(self) -> "Worker | None":
        """The worker of the latest attempt."""
        return self.attempts[-1].worker if self.attempts else None

    @property
    def model(self) -> str | None:
        """The model that is asked for; None where there is none, or the body was not read whole."""
        pinned = self._changes.get("model") if self._changes else None
        if isinstance(pinned, str):
            return pinned
        if self._model is None and self.body.data:
            try:
                self._model = msgspec.json.decode(self.body.data, type=_Model)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                self._model = _Model()
        return self._model.model if self._model else None

    def add_header(self, name: str, value: str) -> None:
        """Add a line to the head of the answer, whoever gives it.

        The last moment for it is an observer's `started`, where `call.worker` has just answered.
        Raises ValueError where the line cannot be sent.
        """
        line = (name.lower().encode("latin-1"), value.encode("latin-1"))
        if not _NAME.fullmatch(line[0]) or not _VALUE.fullmatch(line[1]):
            raise ValueError(f"{name}: {value!r} is no header")
        self.add_lines(line)

    def add_lines(self, *lines: tuple[bytes, bytes]) -> None:
        """The same for several that are known to be good, names in lower case; it is cheaper."""
        self.answer_headers = [*(self.answer_headers or ()), *lines]

    def keep_alive(self) -> None:
        """Send an SSE comment to the caller, who asked for a stream and waits for it to begin.

        The first sends the head of the answer with it: what is no event stream then is told as an
        `error` event. Comments are no part of the answer, and nobody but the caller sees them.
        """
        self.reply.comment(self.own_headers())

    def own_headers(self) -> list[tuple[bytes, bytes]]:
        """What the gateway adds to the head of an answer: its id, its way if that was longer."""
        lines = [(b"x-request-id", self.id.encode())]
        if len(self.attempts) > 1:
            ways = (f"{one.worker.id}={one.said()}" for one in self.attempts)
            lines.append((b"x-gateway-attempts", ", ".join(ways).encode()))
        return lines if self.answer_headers is None else [*lines, *self.answer_headers]

    async def json(self) -> dict[str, Any]:
        """The caller's body as a JSON object, parsed once; do not change it, use `set`.

        Raises InvalidJSON (400) where it is none, BodyTooLarge (413) past the limit.
        """
        if self._json is None:
            self._json = parse_object(await self.body.read())
        return self._json

    async def set(self, key: str, value: object) -> None:
        """Send `value` under a top-level key of the body; its other bytes stay as they are."""
        await self.json()
        self._changes = {**(self._changes or {}), key: value}

    async def inject(self, *wanted: Injection) -> None:
        """Ask the worker for what the caller may not have asked for: token_ids, logprobs, usage.

        The answer is given to observers with it and to the caller without. Nothing happens on a
        path whose dialect has no such thing, or where the caller asked for it himself.
        """
        if self.dialect is not None and self.method == "POST":
            if wanted == ONLY_USAGE and b'"stream"' not in await self.body.read():
                return  # a plain answer has it anyhow
            await self.json()
            self._wanted = {*(self._wanted or ()), *wanted}

    def count_tokens(self) -> None:
        """Have `outcome.usage` known when the call is over: in `finished` and `call_finished`.

        To be called in `observe` at the latest. It is cheap: the end of the answer is looked at,
        and all of a stream only where the engine did not tell.
        """
        self.counts_tokens = True

    def store(self, sink: Sink, item: object, size: int, *, lazy: bool = False) -> None:
        """Have `sink` store `item` (about `size` bytes in memory) in the call's transaction.

        For `call_finished` and observers' `finished`. All that the plugins store of one call is
        committed together, before the caller has its last byte; where all of it is `lazy`, a moment
        later, unless it is to outlive a power cut (`storage.durability`).
        """
        self.entries.append(Entry(sink, item, size, lazy))

    @property
    def waits_for_commit(self) -> bool:
        """Whether something of it has to be committed before its caller has the last byte."""
        return not all(entry.lazy for entry in self.entries)

    def let_go(self) -> None:
        """The call is over: what plugins kept of it, which mostly has the call, need not live on.

        Only the collector would find such a ring, and all that the call holds would wait for it.
        """
        self.observers = UNOBSERVED
        self.state = State()
        self.entries = []
        for error in (self.outcome.error, *(attempt.error for attempt in self.attempts)):
            if error is not None:  # where it was raised are the frames of the call
                error.__traceback__ = error.__context__ = error.__cause__ = None

    @property
    def overwritten(self) -> Mapping[str, object]:
        """The top-level keys of the body that plugins `set`, and to what."""
        return self._changes or {}

    @property
    def injected(self) -> Mapping[str, object]:
        """The top-level keys that the latest attempt's body had by `inject`, and their values."""
        return self._added or {}

    def body_to_send(self, attempt: Attempt) -> bytes | None:
        """The body for the attempt's worker, with changes, and with the injections that it takes.

        None while the body has not been read.
        """
        if self.body.data is None or not (self._changes or self._wanted):
            return self.body.data
        changes = dict(self._changes or {})
        if self._wanted and self.dialect is not None:
            asked = {**(self._json or {}), **changes}
            refused = attempt.left_out | attempt.worker.refusals.of(self.dialect.name)
            self._added, self.stripper = inject(self.dialect, asked, self._wanted - refused)
            changes.update(self._added)
        return rewrite(self.body.data, changes) if changes else self.body.data


def request_id(given: bytes | None) -> str:
    """The caller's x-request-id where it is short and printable, else a new one."""
    if given and len(given) <= 128 and given.isascii():
        text = given.decode()
        if text.isprintable() and " " not in text:
            return text
    return f"{random.getrandbits(128):032x}"  # random seeds itself anew in a forked process
