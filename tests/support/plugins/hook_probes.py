"""Plugins that do one thing each, so that tests of the hooks can see it done."""

import argparse
import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from gateway import (
    Answer,
    Answered,
    BadRequest,
    Call,
    ChooseAgain,
    Database,
    Delta,
    Event,
    Forbidden,
    Gateway,
    Headers,
    Outcome,
    Principal,
    Sample,
    TooManyRequests,
    Translation,
    Unauthorized,
    Worker,
    hookimpl,
    path_of,
)
from gateway.pipeline.authorization import SCOPES
from gateway.testing import DONE, MESSAGES, sse

log = logging.getLogger("probes")


EVERYTHING = frozenset({*SCOPES, "notes"})
"""Those of tests too."""


class Keys:
    """Knows the callers whose key begins with its own."""

    class Config(msgspec.Struct, frozen=True):
        key: str

    def __init__(self, config: Config) -> None:
        self._key = config.key
        self.asked: list[str] = []

    @hookimpl
    async def authenticate(self, call: Call) -> Principal | None:
        given = call.header("Authorization") or ""
        self.asked.append(given)
        if given == "revoked":
            raise Unauthorized("this key was revoked", code="revoked")
        return Principal(self._key, EVERYTHING) if given.startswith(self._key) else None


class OtherKeys(Keys):
    pass


class Witness:
    """Keeps the calls, as they are when they are over."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.outcomes: list[Outcome] = []

    @hookimpl
    async def call_finished(self, call: Call, outcome: Outcome) -> None:
        self.calls.append(call)
        self.outcomes.append(outcome)


class Door:
    """Lets a call in when it is opened."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.reached = asyncio.Event()
        self.left = asyncio.Event()

    @hookimpl
    async def admit(self, call: Call) -> None:
        self.reached.set()
        try:
            await self.opened.wait()
        except asyncio.CancelledError:
            self.left.set()
            raise


class Limit:
    """Lets one call in."""

    def __init__(self) -> None:
        self.room = 1

    @hookimpl
    async def admit(self, call: Call) -> None:
        if not self.room:
            raise TooManyRequests("come back later", headers=((b"retry-after", b"7"),))
        self.room -= 1


class Cooler:
    @hookimpl
    async def prepare(self, call: Call) -> None:
        if call.model:
            await call.set("temperature", 0)
            await call.set("model", "other")


class Counting:
    """Runs after Cooler, and may have the last word."""

    @hookimpl
    async def prepare(self, call: Call) -> None:
        await call.inject("token_ids")
        await call.set("model", f"{(await call.json())['model']}-2")


class Ailing:
    """Is unwell where it has a `reason`, and cannot tell where that is empty."""

    def __init__(self) -> None:
        self.reason: str | None = None

    @hookimpl
    def health(self) -> str | None:
        if self.reason == "":
            raise ValueError("a bug")
        return self.reason


class Capitals:
    """Takes only ids of sessions in capitals."""

    @hookimpl
    def check_session_id(self, session_id: str) -> None:
        if not session_id.isupper():
            raise BadRequest("in capitals, please")


class Colours:
    """Keeps the colours of sessions, and knows no grey."""

    def __init__(self) -> None:
        self.colours: dict[str, object] = {}

    @hookimpl
    def session_put(self, db: Database, session_id: str, metadata: Mapping[str, Any]) -> None:
        if metadata.get("colour") == "grey":
            raise BadRequest("no grey, please")
        [(found,)] = db.select("SELECT count(*) FROM sessions")
        self.colours[session_id] = (metadata.get("colour"), found)


class Ends:
    """Notes which sessions are over, and whose they are."""

    def __init__(self) -> None:
        self.ended: list[tuple[str, str | None]] = []

    @hookimpl
    def session_ended(self, session_id: str, owner: str | None) -> None:
        self.ended.append((session_id, owner))


class Canned:
    """Answers the calls for model `canned`."""

    @hookimpl
    async def handle(self, call: Call) -> Answer | None:
        return Answer(body=b"canned") if call.model == "canned" else None


class CannedStream:
    @hookimpl
    async def handle(self, call: Call) -> Answer | None:
        if call.model not in ("canned", "stream"):
            return None
        return Answer(headers=[(b"content-type", b"text/event-stream")], body=self.events())

    async def events(self) -> AsyncIterator[bytes]:
        yield sse({"choices": [], "usage": {"total_tokens": 3}})
        yield DONE


class Only:
    """Leaves one worker of those that it is given, and says which ones these were."""

    class Config(msgspec.Struct, frozen=True):
        ids: tuple[str, ...] = ()

    def __init__(self, config: Config) -> None:
        self._ids = config.ids
        self.given: list[list[str]] = []

    @hookimpl
    async def filter_workers(self, call: Call, workers: Sequence[Worker]) -> Sequence[Worker]:
        self.given.append([worker.id for worker in workers])
        return [worker for worker in workers if worker.id in self._ids]


class ThenOnly(Only):
    pass


class Last:
    @hookimpl
    async def pick_worker(self, call: Call, workers: Sequence[Worker]) -> Worker | None:
        return workers[-1] if call.header("x-last") else None


class First:
    @hookimpl
    async def pick_worker(self, call: Call, workers: Sequence[Worker]) -> Worker | None:
        return workers[0]


class Recorder:
    """Observes with every method there is."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, object]] = []
        self.chunks: list[bytes] = []

    @hookimpl
    def observe(self, call: Call) -> object | None:
        return self if call.header("x-unseen") is None else None

    def started(self, status: int, headers: Headers) -> None:
        self.seen.append(("started", status))

    def data(self, chunk: bytes) -> None:
        self.seen.append(("data", chunk))
        self.chunks.append(chunk)

    def event(self, event: Event) -> None:
        self.seen.append(("event", event.data))

    def delta(self, delta: Delta) -> None:
        self.seen.append(("delta", delta.done or [choice.text for choice in delta.choices]))

    def finished(self, outcome: Outcome) -> None:
        self.seen.append(("finished", outcome.complete))


class Patient:
    """Takes until it is told to end what it does at a call's end."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()

    @hookimpl
    async def call_finished(self, call: Call) -> None:
        self.begun.set()
        await self.may_end.wait()


class Pages:
    """A page of its own, and calls under a prefix."""

    @hookimpl
    def routes(self, gateway: Gateway) -> list[BaseRoute]:
        async def hello(request: Request) -> PlainTextResponse:
            return PlainTextResponse("hello")

        team = Route("/team/{rest:path}", TeamEdge(gateway))
        return [gateway.guarded(Route("/hello", hello), scope=None), gateway.carried(team)]


class TeamEdge:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = path_of(scope).removeprefix("/team")
        await self._gateway.carry(scope, receive, send, path=path, session_id="team")


class Beside:
    """Logs when it is entered and left."""

    class Config(msgspec.Struct, frozen=True):
        fails: bool = False

    def __init__(self, config: Config) -> None:
        self._fails = config.fails

    @hookimpl
    @contextlib.asynccontextmanager
    async def lifespan(self, gateway: Gateway) -> AsyncIterator[None]:
        if self._fails:
            raise OSError("the disk is full")
        log.info("%s entered", type(self).__name__)
        try:
            yield
        finally:
            log.info("%s left", type(self).__name__)


class BesideToo(Beside):
    pass


class Tolling:
    """Tells how often it was asked."""

    def __init__(self) -> None:
        self._tolls = 0

    @hookimpl
    def samples(self) -> Iterator[Sample]:
        self._tolls += 1
        labels = {"bell": "big"}
        yield Sample("gateway_tolls_total", "counter", self._tolls, "Tolls of bells.", labels)


class Greeter:
    """Gives the command line a command."""

    @hookimpl
    def add_commands(
        self, subcommands: "argparse._SubParsersAction[argparse.ArgumentParser]"
    ) -> None:
        parser = subcommands.add_parser("greet", help="greet somebody")
        parser.add_argument("name")
        parser.set_defaults(run=greet)


def greet(options: argparse.Namespace) -> None:
    sys.stdout.write(f"Hello {options.name}")


class Breaking:
    """Has every hook of a call, and raises in the one that it is told to."""

    class Config(msgspec.Struct, frozen=True):
        at: str = ""
        how: Literal["breaks", "refuses", "is cancelled", "answers", "chooses"] = "breaks"

    def __init__(self, config: Config) -> None:
        self._config = config
        self.seen: list[str] = []

    def _reach(self, where: str) -> None:
        self.seen.append(where)
        if where != self._config.at:
            return
        if self._config.how == "refuses":
            raise Forbidden("not you", code="refused", headers=((b"x-why", b"a whim"),))
        if self._config.how == "is cancelled":  # as by waiting for a task that somebody cancelled
            raise asyncio.CancelledError
        if self._config.how == "answers":
            raise Answered(Answer(body=b"at once"))
        if self._config.how == "chooses":
            raise ChooseAgain
        raise ValueError(f"on purpose, and not for callers: {where}")

    @hookimpl
    async def authenticate(self, call: Call) -> Principal:
        self._reach("authenticate")
        return Principal("anybody")

    @hookimpl
    async def admit(self) -> None:
        self._reach("admit")

    @hookimpl
    async def prepare(self) -> None:
        self._reach("prepare")

    @hookimpl
    async def handle(self) -> Answer | None:
        self._reach("handle")
        return None

    @hookimpl
    async def filter_workers(self, workers: Sequence[Worker]) -> Sequence[Worker]:
        self._reach("filter_workers")
        return workers

    @hookimpl
    async def pick_worker(self) -> Worker | None:
        self._reach("pick_worker")
        return None

    @hookimpl
    async def attempt_finished(self) -> None:
        self._reach("attempt_finished")

    @hookimpl
    def observe(self) -> "BreakingObserver":
        self._reach("observe")
        return BreakingObserver(self._reach)

    @hookimpl
    async def call_finished(self) -> None:
        self._reach("call_finished")


class BreakingAtOnce(Breaking):
    """Breaks in hooks that are plain functions."""

    @hookimpl
    def authenticate(self, call: Call) -> Principal:  # type: ignore[override]
        self._reach("authenticate")
        return Principal("anybody")

    @hookimpl
    def admit(self) -> None:  # type: ignore[override]
        self._reach("admit")

    @hookimpl
    def prepare(self) -> None:  # type: ignore[override]
        self._reach("prepare")

    @hookimpl
    def handle(self) -> None:  # type: ignore[override]
        self._reach("handle")

    @hookimpl
    def filter_workers(self, workers: Sequence[Worker]) -> Sequence[Worker]:  # type: ignore[override]
        self._reach("filter_workers")
        return workers

    @hookimpl
    def pick_worker(self) -> None:  # type: ignore[override]
        self._reach("pick_worker")

    @hookimpl
    def attempt_finished(self) -> None:  # type: ignore[override]
        self._reach("attempt_finished")

    @hookimpl
    def call_finished(self) -> None:  # type: ignore[override]
        self._reach("call_finished")


class BreakingLater(Breaking):
    """Breaks in what plain functions return to be awaited: a coroutine, a future or a task."""

    @hookimpl
    def authenticate(self, call: Call) -> Awaitable[Principal]:  # type: ignore[override]
        return super().authenticate(call)

    @hookimpl
    def admit(self) -> Awaitable[None]:  # type: ignore[override]
        return asyncio.ensure_future(super().admit())

    @hookimpl
    def prepare(self) -> Awaitable[None]:  # type: ignore[override]
        return super().prepare()

    @hookimpl
    def handle(self) -> Awaitable[Answer | None]:  # type: ignore[override]
        return asyncio.ensure_future(super().handle())

    @hookimpl
    def filter_workers(self, workers: Sequence[Worker]) -> Awaitable[Sequence[Worker]]:  # type: ignore[override]
        return asyncio.ensure_future(super().filter_workers(workers))

    @hookimpl
    def pick_worker(self) -> Awaitable[Worker | None]:  # type: ignore[override]
        return super().pick_worker()

    @hookimpl
    def attempt_finished(self) -> Awaitable[None]:  # type: ignore[override]
        return super().attempt_finished()

    @hookimpl
    def call_finished(self) -> Awaitable[None]:  # type: ignore[override]
        return asyncio.ensure_future(super().call_finished())


class BreakingObserver:
    def __init__(self, reach: Callable[[str], None]) -> None:
        self._reach = reach

    def started(self, status: int, headers: Headers) -> None:
        self._reach("observer.started")

    def data(self, chunk: bytes) -> None:
        self._reach("observer.data")

    def event(self, event: Event) -> None:
        self._reach("observer.event")

    def delta(self, delta: Delta) -> None:
        self._reach("observer.delta")

    def finished(self, outcome: Outcome) -> None:
        self._reach("observer.finished")


class Shout:
    """Carries calls of /v1/shout as chat; the caller gets the text alone, in capital letters."""

    @hookimpl
    def translate(self, call: Call) -> Translation | None:
        if call.path != "/v1/shout":
            return None
        messages = [dict(one) for one in MESSAGES]
        chat = {"model": "sim", "max_tokens": 2, "seed": 1, "messages": messages}
        return Translation(msgspec.json.encode(chat), Loud())


class Loud:
    failure = None

    def event(self, data: bytes) -> bytes:
        return data

    def comment(self) -> bytes:
        return b""

    def end(self, *, done: bool) -> bytes:
        return b""

    def answer(self, body: bytes) -> bytes:
        text: str = msgspec.json.decode(body)["choices"][0]["message"]["content"]
        return text.upper().encode()

    def refusal(self, status: int, body: bytes, call_id: str) -> bytes:
        return b"NO"
