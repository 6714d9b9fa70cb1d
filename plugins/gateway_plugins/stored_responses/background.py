"""Responses that run in the background: a call of their own each, whether its caller stays or not.

A response whose process dies is taken for failed once it has shown no sign for `rows.STALE`
seconds. The events of one that streams are kept as they come, for callers of other processes too.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec

from gateway import (
    Body,
    Call,
    CallerGone,
    Database,
    GatewayError,
    Headers,
    Host,
    TooManyRequests,
    Topic,
)
from gateway_plugins.stored_responses import rows
from gateway_plugins.stored_responses.options import Options
from gateway_plugins.stored_responses.turns import TURN, Turn, add_row, store

log = logging.getLogger("gateway.stored_responses")

CANCEL = Topic("stored_responses", "cancel")

BEAT = 5.0
"""Seconds between two signs of life."""

FLUSH = 0.25
"""Seconds for which events wait to be kept together, and after which another process looks."""

CLOSING = 5.0
"""Seconds in which calls that are ended at shutdown may be recorded."""

_GAVE_UP = b'{"message":"The response was given up.","type":"server_error"}'
_TOO_LARGE = b'{"message":"The response has more events than are kept.","type":"server_error"}'


class Run:
    """A response that runs here. `events` are those of a stream so far; `over`: no more come."""

    def __init__(self, turn: Turn, number: int, room: int) -> None:
        self.turn, self.number = turn, number
        self.events: list[bytes] = []
        self.kept = 0
        self.over = self.cancelled = False
        self.call: Call | None = None
        self._room = room
        self._changed = asyncio.Event()

    def add(self, events: bytes) -> None:
        self._room -= len(events)
        if self._room < 0:
            if self.call is not None:
                self.call.cancel(CallerGone("it has too many events"))
            return
        self.events += rows.split(events)
        self._wake()

    @property
    def runs(self) -> bool:
        return self.turn.translator.response.status in rows.RUNNING

    @property
    def is_full(self) -> bool:
        return self._room < 0

    def end(self) -> None:
        self.over = True
        self._wake()

    async def cancel(self) -> None:
        """End the call, and return once that is kept."""
        self.cancelled = True
        if self.call is not None:
            self.call.cancel(CallerGone("the response was cancelled"))
        async for _ in self.follow(len(self.events)):
            pass

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def follow(self, after: int) -> AsyncIterator[bytes]:
        """Yield the events after number `after`, as they come."""
        at = after + 1
        while True:
            changed = self._changed
            if at < len(self.events):
                some = self.events[at:]
                at += len(some)
                yield b"".join(some)
            elif self.over:
                return
            else:
                await changed.wait()


class _Receiver:
    """The caller of a background call: gives its events to the run, and keeps an error."""

    def __init__(self, run: Run) -> None:
        self.drained: Callable[[], None] = lambda: None
        self.error = b""
        self._run = run
        self._failed = False

    def start(self, status: int, headers: Headers) -> None:
        self._failed = status >= 400

    def write(self, data: bytes) -> bool:
        if self._failed:
            self.error += data
        elif self._run.turn.has_events and data:
            self._run.add(data)
        return True

    def cut(self) -> None: ...

    async def end(self, data: bytes) -> None:
        self.write(data)


class Background:
    """The responses that run in the background in this process."""

    def __init__(self, gateway: Host, options: Options) -> None:
        self.options = options
        self._gateway = gateway
        self._runs: dict[tuple[str, str], Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        gateway.peers.handle(CANCEL, self._cancel_here)

    def find(self, owner: str, id_: str) -> Run | None:
        return self._runs.get((owner, id_))

    async def start(self, call: Call, turn: Turn, body: bytes) -> Run:
        """Keep the response as queued, and run it. Raises TooManyRequests."""
        run = await self._kept(turn)
        task = asyncio.create_task(self._run(run, call, body))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return run

    async def _kept(self, turn: Turn) -> Run:
        """Keep a response as queued, unless too many run, in this process and in others."""
        turn.translator.response.status = "queued"
        most, now = self.options.max_background, time.time()

        def add(db: Database) -> int:
            running = rows.count_running(db, turn.owner, now)
            if running >= most:
                raise TooManyRequests(f"{running} responses run in the background (max_background)")
            return add_row(db, turn, turn.body(), "queued")

        number = await self._gateway.storage.write(add)
        run = self._runs[turn.owner, turn.id] = Run(turn, number, self.options.max_event_bytes)
        return run

    async def _run(self, run: Run, call: Call, body: bytes) -> None:
        turn = run.turn
        receiver = _Receiver(run)
        run.call = self._call(receiver, call, turn, body)
        beats = asyncio.create_task(self._keep(run))
        try:
            turn.translator.response.status = "in_progress"
            await self._gateway.dispatch(run.call)
        finally:
            beats.cancel()
            self._give_up(run, receiver)
            await self._end(run)

    def _call(self, receiver: _Receiver, call: Call, turn: Turn, body: bytes) -> Call:
        made = Call(
            receiver,
            method="POST",
            path=call.asked_path,
            headers=[line for line in call.headers if line[0] not in _NOT_AGAIN],
            body=Body(body),
            session_id=turn.session,
            client=call.client,
            principal=call.principal,
            source=call.source,
            internal=True,
        )
        made.body.kernel = self._gateway.kernel
        made.state[TURN] = turn
        return made

    def _give_up(self, run: Run, receiver: _Receiver) -> None:
        """Give a response that has no end one: it was cancelled, or it has failed."""
        response = run.turn.translator.response
        if response.status not in rows.RUNNING:
            return
        if run.cancelled:
            events = run.turn.translator.cancelled()
        else:
            error = _TOO_LARGE if run.is_full else _error(receiver.error)
            events = run.turn.translator.failed(error)
        if run.turn.has_events:
            run.events += rows.split(events)

    async def _end(self, run: Run) -> None:
        """Keep how it ended, unless its call has, and the last events."""
        turn = run.turn
        body, events = turn.body(), run.events[run.kept :]
        try:
            await self._gateway.storage.write(lambda db: _finish(db, run, body, events))
        except GatewayError as error:
            log.error("the end of %s could not be kept: %s", turn.id, error)
        run.end()
        del self._runs[turn.owner, turn.id]

    async def _keep(self, run: Run) -> None:
        """Keep the events of a run as they come, and tell that it runs."""
        last = 0.0
        while True:
            now = time.time()
            if run.kept < len(run.events) or now - last >= BEAT:
                last = now
                try:
                    await self._note(run)
                except GatewayError as error:
                    log.warning("the events of %s cannot be kept now: %s", run.turn.id, error)
                    await asyncio.sleep(BEAT)
            await asyncio.sleep(FLUSH)

    async def _note(self, run: Run) -> None:
        first, now = run.kept, time.time()
        events = run.events[first:]

        def note(db: Database) -> None:
            rows.add_events(db, run.number, first, events)
            rows.beat(db, run.number, now)

        await self._gateway.storage.write(note)
        run.kept = first + len(events)

    async def cancel(self, holder: rows.Holder) -> None:
        """Cancel a response, wherever it runs; nothing happens to one that has ended."""
        run = self.find(holder.owner, holder.id)
        if run is not None:
            await run.cancel()
            return
        asked = msgspec.msgpack.encode((holder.owner, holder.id))
        await self._gateway.peers.request(CANCEL, asked)

    async def _cancel_here(self, asked: bytes) -> bytes:
        """Cancel a response that another process was asked to cancel, if it runs here."""
        run = self.find(*msgspec.msgpack.decode(asked, type=tuple[str, str]))
        if run is not None:
            await run.cancel()
        return b""

    async def close(self) -> None:
        """End the responses that run, and keep that they failed."""
        for run in self._runs.values():
            if run.call is not None:
                run.call.cancel(CallerGone("the gateway is shutting down"))
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=CLOSING)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)


_NOT_AGAIN = frozenset((b"content-length", b"content-encoding", b"transfer-encoding", b"expect"))


class _Error(msgspec.Struct):
    error: msgspec.Raw


def _error(body: bytes) -> bytes:
    """Return the error in the body of a response; any other body is no error of its own."""
    try:
        return bytes(msgspec.json.decode(body, type=_Error).error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _GAVE_UP


def _finish(db: Database, run: Run, body: bytes, events: Sequence[bytes]) -> None:
    rows.add_events(db, run.number, run.kept, events)
    if not run.turn.is_stored:
        store(db, run.turn, body, time.time())
    rows.set_logged(db, run.number)
