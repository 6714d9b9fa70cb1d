"""A caller that goes away ends its call at once, whatever it was waiting for.

What counts is the worker's side: its connection has to be closed, or the engine generates on for
nobody.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence

import msgspec
import pytest
from support.callers.leaving_caller import alive, leave, open_descriptors
from support.callers.raw_client import Headers, RawClient, head_of
from support.plugins.recording_plugin import PATIENCE, Watcher, until
from support.steady import at_once
from support.workers.full_backlog import full_backlog

from gateway import Call, Principal, Worker, hookimpl
from gateway.config import TLS, Config
from gateway.config import Worker as WorkerConfig
from gateway.testing import (
    MESSAGES,
    NO_PROBES,
    Live,
    ScriptedConnection,
    ScriptedWorker,
    answer_of,
    entry,
    live,
    sse,
)

EVENT = sse({"choices": []})
STARTS: Mapping[str, bytes] = {
    "half": b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{",
    "streaming": b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
    b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(EVENT), EVENT),
}

BODY = {"messages": [dict(message) for message in MESSAGES]}
PLAIN = json.dumps(BODY).encode()
STREAMED = json.dumps({**BODY, "stream": True}).encode()


class Holder:
    """Holds each call in the phase that its x-phase names, and says when it has got there.

    As a plugin it holds those that are to be queued, and chooses the worker that keeps them in the
    other phases: one that cannot be connected to, one that does not answer TLS, or the one that
    runs `hold`.
    """

    def __init__(self) -> None:
        self.known = asyncio.Event()
        self.cancelled = asyncio.Event()
        self._reached: dict[str, asyncio.Event] = {}

    def reached(self, call_id: str) -> asyncio.Event:
        return self._reached.setdefault(call_id, asyncio.Event())

    @hookimpl
    async def authenticate(self, call: Call) -> Principal:
        if call.header("x-phase") == "unknown":
            self.reached(call.id).set()
            await self.known.wait()
        return Principal("anybody")

    @hookimpl
    async def admit(self, call: Call) -> None:
        if call.header("x-phase") == "queued":
            await self._forever(call)

    @hookimpl
    async def filter_workers(self, call: Call, workers: Sequence[Worker]) -> Sequence[Worker]:
        phase = call.header("x-phase")
        if phase == "no room":
            await self._forever(call)
        if phase == "connecting":
            self.reached(call.id).set()
        return [one for one in workers if one.id == phase] or workers[:1]

    async def _forever(self, call: Call) -> None:
        self.reached(call.id).set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()

    async def hold(self, connection: ScriptedConnection) -> None:
        head = await connection.reader.readuntil(b"\r\n\r\n")
        lines = (line.partition(b": ")[::2] for line in head.split(b"\r\n"))
        fields = {name: value.decode() for name, value in lines}
        phase = fields[b"x-phase"]
        if phase == "uploading":
            await connection.reader.readexactly(1)
        elif phase in STARTS:
            await connection.write(STARTS[phase])
        self.reached(fields[b"x-request-id"]).set()
        await connection.wait_closed()


class Setting(msgspec.Struct):
    """`mute` takes connections and says nothing, so that TLS with it does not come about."""

    live: Live
    holder: Holder
    watcher: Watcher
    worker: ScriptedWorker
    mute: ScriptedWorker

    def client(self) -> RawClient:
        return RawClient(*self.live.server.address)


@pytest.fixture
async def setting() -> AsyncIterator[Setting]:
    async def hold(connection: ScriptedConnection) -> None:
        await holder.hold(connection)

    async def say_nothing(connection: ScriptedConnection) -> None:
        await connection.wait_closed()

    with full_backlog() as full:
        async with (
            ScriptedWorker(hold) as worker,
            ScriptedWorker(say_nothing) as mute,
            live(_config(worker.url, mute.url, full)) as running,
        ):
            holder = running.plugin(Holder)
            yield Setting(running, holder, running.plugin(Watcher), worker, mute)


def _config(worker: str, mute: str, full: str) -> Config:
    secure = mute.replace("http:", "https:")
    return Config(
        probes=NO_PROBES,
        workers=(
            WorkerConfig(url=worker),
            WorkerConfig(url=secure, worker_id="shaking hands", tls=TLS(verify=False)),
            WorkerConfig(url=full, worker_id="connecting"),
        ),
        plugins=(entry(Holder), entry(Watcher)),
    )


async def begin(
    setting: Setting, client: RawClient, phase: str, body: bytes, call_id: str = "one"
) -> None:
    """Send a call and wait until it is where `phase` says."""
    headers: Headers = [(b"x-phase", phase.encode()), (b"x-request-id", call_id.encode())]
    length = 3_000_000 if phase == "uploading" else len(body)
    headers.append((b"content-length", b"%d" % length))
    await client.send(head_of("POST", "/v1/chat/completions", headers) + body)
    if phase == "shaking hands":
        await until(lambda: bool(setting.mute.connections))
    else:
        await setting.holder.reached(call_id).wait()
    if phase in STARTS:
        await client.head()


@pytest.fixture(params=[False, True], ids=["FIN", "RST"])
def reset(request: pytest.FixtureRequest) -> bool:
    found: bool = request.param
    return found


@pytest.mark.parametrize(
    ("phase", "body"),
    [
        ("shaking hands", PLAIN),
        ("shaking hands", STREAMED),
        ("waiting", PLAIN),
        ("waiting", STREAMED),
        ("half", PLAIN),
        ("streaming", STREAMED),
        ("uploading", b"x" * 1_500_000),
    ],
)
async def test_caller_disconnect_closes_the_worker_connection_at_once(
    setting: Setting, phase: str, body: bytes, reset: bool
) -> None:
    async with setting.client() as client:
        await begin(setting, client, phase, body)
        worker = setting.mute if phase == "shaking hands" else setting.worker
        leave(client, reset=reset)
        async with at_once():
            await worker.connections[0].wait_closed()
    outcome = await setting.watcher.outcome()
    assert outcome.caller_gone
    assert not outcome.complete
    assert outcome.error is None
    assert outcome.status == (200 if phase in STARTS else 0)
    [attempt] = setting.watcher.attempts
    assert attempt.ended is not None
    assert attempt.worker.in_flight == 0


@pytest.mark.parametrize("body", [PLAIN, STREAMED], ids=["plain", "streamed"])
@pytest.mark.parametrize("phase", ["queued", "no room"])
async def test_caller_disconnect_cancels_a_waiting_hook_at_once(
    setting: Setting, phase: str, body: bytes, reset: bool
) -> None:
    async with setting.client() as client:
        await begin(setting, client, phase, body)
        leave(client, reset=reset)
        async with at_once():
            await setting.holder.cancelled.wait()
    outcome = await setting.watcher.outcome()
    assert outcome.caller_gone
    assert outcome.status == 0
    assert setting.watcher.attempts == []
    assert setting.worker.connections == []


async def test_caller_disconnect_amid_an_upload_cancels_a_waiting_hook(setting: Setting) -> None:
    headers: Headers = [(b"x-phase", b"queued"), (b"x-request-id", b"one")]
    headers.append((b"transfer-encoding", b"chunked"))
    async with setting.client() as client:
        await client.send(head_of("POST", "/v1/completions", headers) + b"2\r\n{}\r\n")
        await setting.holder.reached("one").wait()
        leave(client, reset=False)
        async with at_once():
            await setting.holder.cancelled.wait()
    assert (await setting.watcher.outcome()).caller_gone


async def test_caller_gone_before_authentication_reaches_no_worker(setting: Setting) -> None:
    async with setting.client() as client:
        await begin(setting, client, "unknown", PLAIN)
        leave(client, reset=True)
        await until(lambda: not setting.live.server.server_state.connections)
        setting.holder.known.set()
        assert (await setting.watcher.outcome()).caller_gone
    assert setting.worker.connections == []


async def test_caller_disconnect_abandons_a_connection_being_opened(
    setting: Setting, reset: bool
) -> None:
    before = open_descriptors()
    async with setting.client() as client:
        await begin(setting, client, "connecting", PLAIN)
        leave(client, reset=reset)
        assert (await setting.watcher.outcome()).caller_gone
    assert [attempt.connected for attempt in setting.watcher.attempts] == [None]
    await until(lambda: open_descriptors() <= before)


class Slow:
    """Takes its time to learn of an attempt."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self.learnt = False

    @hookimpl
    async def attempt_finished(self) -> None:
        self.begun.set()
        await self.go_on.wait()
        self.learnt = True


async def test_caller_disconnect_does_not_interrupt_attempt_finished() -> None:
    async with ScriptedWorker(answer_of(b"{}")) as worker:
        config = Config(
            probes=NO_PROBES,
            workers=(WorkerConfig(url=worker.url),),
            plugins=(entry(Slow), entry(Watcher)),
        )
        async with live(config) as running, RawClient(*running.server.address) as client:
            slow, watcher = running.plugin(Slow), running.plugin(Watcher)
            await client.send(head_of("GET", "/v1/models", []))
            await slow.begun.wait()
            leave(client, reset=True)
            await until(lambda: not running.server.server_state.connections)
            slow.go_on.set()
            assert (await watcher.outcome()).caller_gone
    assert slow.learnt
    assert len(watcher.attempts) == 1


# a thousand of them

PHASES = ("queued", "no room", "connecting", "waiting", "half", "streaming", "uploading")
AT_A_TIME = 50


async def test_thousand_aborted_calls_leak_nothing(setting: Setting) -> None:
    tasks, descriptors, objects = asyncio.all_tasks(), open_descriptors(), alive()
    for start in range(0, 1000, AT_A_TIME):
        async with asyncio.TaskGroup() as group:
            for number in range(start, start + AT_A_TIME):
                group.create_task(_abort_one(setting, number))
    await setting.watcher.calls(1000)
    assert all(outcome.caller_gone for outcome in setting.watcher.outcomes)
    # The workers' connections and uvicorn's are of this process too, and end some turns later.
    await until(lambda: not setting.worker.connections_open)
    await until(lambda: not setting.live.server.server_state.connections)
    await until(lambda: asyncio.all_tasks() <= tasks)
    await until(lambda: open_descriptors() <= descriptors)
    gateway = setting.live.gateway
    assert gateway.proxy.in_flight == set()
    assert [(one.in_flight, len(one.pool)) for one in gateway.workers.all] == [(0, 0)] * 3
    assert alive() <= objects


async def _abort_one(setting: Setting, number: int) -> None:
    phase = PHASES[number % len(PHASES)]
    body = b"x" * 100_000 if phase == "uploading" else (PLAIN, STREAMED)[number // 2 % 2]
    async with setting.client() as client, asyncio.timeout(PATIENCE):
        await begin(setting, client, phase, body, f"call-{number}")
        leave(client, reset=number % 2 == 0)
