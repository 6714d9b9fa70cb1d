"""A gateway that is killed has the trace of every call whose answer its caller finished reading."""

import asyncio
import json
import os
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path
from random import Random
from signal import SIGKILL, SIGTERM
from typing import Any

import msgspec
import pytest
from support.callers.raw_client import CutShort, RawAnswer, RawClient
from support.callers.sampled_tokens import ASKS, Sampled, sampled, sampled_of
from support.gateways.capturing import CAPTURE
from support.gateways.serving_process import Process, serving
from support.paths import SUPPORT

from gateway import Trace
from gateway.client import AsyncGatewayClient
from gateway.simulator import Simulator, SimulatorConfig

CALLERS = 12
TURNS = 6
"""Of a session; its caller then begins another."""

LONGEST = 0.6
"""Seconds from the first answer to the kill."""

KILLS_OF_A_FILE = 25
"""A larger file takes longer to check."""

LANES = os.cpu_count() or 1

SLOW_DISK = ("--plugin", str(SUPPORT / "plugins" / "slow_disk.py"))
JSON_BODY = (b"content-type", b"application/json")
WORDS = ("harbour", "ferry", "quiet", "hill", "nobody", "rows", "there", "night")


class Asked(msgspec.Struct):
    """A call; `body` is what the caller had read of its answer when the gateway died."""

    session_id: str
    call_id: str
    request: dict[str, Any]
    body: bytes = b""
    finished: bool = False

    @property
    def stream(self) -> bool:
        return bool(self.request["stream"])

    @property
    def asks(self) -> bool:
        """For ids and logprobs itself."""
        return "return_token_ids" in self.request


class Load:
    """Callers that go on asking until their gateway is gone.

    Of each session's turns, the calls are plain and streamed, asking for token ids and not. With
    `sessions` they are those of another load too.
    """

    def __init__(self, name: str, chance: Random, sessions: str | None = None) -> None:
        self.calls: list[Asked] = []
        self.answered = asyncio.Event()
        self._name = name
        self._sessions = sessions or name
        self._chance = chance

    async def run(self, process: Process, kill_after: int | None) -> None:
        """Until nobody is answered any more; killed as answer `kill_after` has been read."""
        self._left = kill_after
        async with asyncio.TaskGroup() as group:
            for number in range(CALLERS):
                group.create_task(self._ask_on(process, number))

    async def _ask_on(self, process: Process, caller: int) -> None:
        try:
            async with process.client() as client:
                for session in range(10_000):
                    await self._converse(process, client, f"{self._sessions}/{caller}:{session}")
        except (CutShort, OSError, asyncio.IncompleteReadError):
            return  # it was killed

    async def _converse(self, process: Process, client: RawClient, session_id: str) -> None:
        messages: list[dict[str, str]] = []
        for turn in range(TURNS):
            messages.append({"role": "user", "content": " ".join(self._chance.choices(WORDS, k=5))})
            call_id = f"{self._name}:{session_id}/{turn}"
            call = Asked(session_id, call_id, self._request(messages, turn))
            self.calls.append(call)
            await self._ask(client, call)
            self._note_end(process)
            content = sampled(call.body, stream=call.stream)[0].content
            messages.append({"role": "assistant", "content": content})

    def _request(self, messages: list[dict[str, str]], turn: int) -> dict[str, Any]:
        return {
            "messages": list(messages),
            "max_tokens": self._chance.randint(1, 12),
            "seed": self._chance.randrange(1_000_000),
            "stream": self._chance.random() < 0.5,
            **(ASKS if turn % 2 else {}),
        }

    async def _ask(self, client: RawClient, call: Asked) -> None:
        try:
            target = f"/sessions/{call.session_id}/v1/chat/completions"
            headers = [JSON_BODY, (b"x-request-id", call.call_id.encode())]
            body = json.dumps(call.request).encode()
            answer = await client.ask("POST", target, headers, body)
        except CutShort as short:
            self._take(call, short.answer, whole=False)
            raise
        self._take(call, answer, whole=True)

    def _take(self, call: Asked, answer: RawAnswer, *, whole: bool) -> None:
        if answer.status == 503:
            raise ConnectionError("it is shutting down")
        assert answer.status == 200
        call.body = answer.body
        # A caller of a stream stops at its `[DONE]`, whatever comes of the connection then.
        call.finished = whole or (call.stream and call.body.endswith(b"data: [DONE]\n\n"))

    def _note_end(self, process: Process) -> None:
        self.answered.set()
        if self._left is not None:
            self._left -= 1
            if not self._left:
                process.kill(SIGKILL)


class Figures(msgspec.Struct):
    kills: int = 0
    started: int = 0
    finished: int = 0
    found: int = 0
    unread: int = 0
    tokens: int = 0

    def add(self, other: "Figures") -> None:
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


async def check(url: str, simulator: str, load: Sequence[Asked], figures: Figures) -> None:
    """Each call has one trace at most, and one that was read has it whole."""
    figures.kills += 1
    async with AsyncGatewayClient(url) as client, RawSimulator(simulator) as engine:
        for session_id in sorted({call.session_id for call in load}):
            traces = await client.get_session_traces(session_id)
            calls = [call for call in load if call.session_id == session_id]
            by_call = {trace.call_id: trace for trace in traces}
            assert len(by_call) == len(traces), "a call has one trace"
            assert by_call.keys() <= {call.call_id for call in calls}
            figures.started += len(calls)
            figures.found += len(traces)
            for call in calls:
                await _check_call(call, by_call.get(call.call_id), engine, figures)


async def _check_call(
    call: Asked, trace: Trace | None, engine: "RawSimulator", figures: Figures
) -> None:
    if not call.finished:
        figures.unread += trace is not None
        if trace is not None:
            check_part(trace, await engine.sampled(call.request))
        return
    assert trace is not None, f"{call.call_id} has been read and has no trace"
    figures.finished += 1
    assert (trace.verdict, trace.reasons) == ("COMPLETE", [])
    recorded = sampled_of(trace)
    told = sampled(call.body, stream=call.stream)
    assert recorded[0].content == told[0].content
    assert recorded == (told if call.asks else await engine.sampled(call.request))
    assert trace.raw_request == call.request
    figures.tokens += len(trace.completion_token_ids)


def check_part(trace: Trace, whole: dict[int, Sampled]) -> None:
    """It may have been stored whole before its caller had read that."""
    for index, one in sampled_of(trace).items():
        assert one.token_ids == whole[index].token_ids[: len(one.token_ids)]
        assert one.logprobs == whole[index].logprobs[: len(one.logprobs)]
    assert sampled_of(trace) == whole or trace.verdict == "INCOMPLETE"


class RawSimulator:
    """Asks the engine itself; the same seed gives the same tokens."""

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._client = RawClient(host, int(port))

    async def __aenter__(self) -> "RawSimulator":
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._client.writer.transport.abort()

    async def sampled(self, request: dict[str, Any]) -> dict[int, Sampled]:
        body = json.dumps({**request, **ASKS, "stream": False}).encode()
        answer = await self._client.ask("POST", "/v1/chat/completions", [JSON_BODY], body)
        return sampled(answer.body, stream=False)


class Kills:
    """Gateways that are killed under load, one after the other on the same file."""

    def __init__(self, file: Path, seed: int, durability: str = "process") -> None:
        self.figures = Figures()
        self._file = file
        self._durability = durability
        self._chance = Random(seed)
        self._last: list[Asked] = []

    async def run(self, kills: int) -> Figures:
        async with Simulator(SimulatorConfig(itl=0.001)) as simulator:
            for number in range(kills):
                await self._one(simulator.url, number)
                check_file(self._file)
            async with self._gateway(simulator.url) as process:
                await self._look(process, simulator.url)
        return self.figures

    async def _one(self, simulator: str, number: int) -> None:
        """Kill one at any moment, or as an answer has just been read and commits take long."""
        at_an_end = number % 2 == 0
        async with self._gateway(simulator, *(SLOW_DISK if at_an_end else ())) as process:
            await self._look(process, simulator)
            load = Load(f"s{number}", self._chance)
            self._last = load.calls
            async with asyncio.TaskGroup() as group:
                kill_after = self._chance.randint(1, 200) if at_an_end else None
                group.create_task(load.run(process, kill_after))
                if not at_an_end:
                    await load.answered.wait()
                    await asyncio.sleep(self._chance.uniform(0, LONGEST))  # any moment will do
                    process.kill(SIGKILL)

    async def _look(self, process: Process, simulator: str) -> None:
        """What this gateway says of the calls that its predecessor died with."""
        if self._last:
            await check(process.url, simulator, self._last, self.figures)

    async def share(self) -> Figures:
        """Kill two that write to the same sessions, the second one some time after the first."""
        async with Simulator(SimulatorConfig(itl=0.001)) as simulator:
            async with self._gateway(simulator.url) as one, self._gateway(simulator.url) as other:
                loads = [Load(name, self._chance, "shared") for name in ("one", "other")]
                async with asyncio.TaskGroup() as group:
                    group.create_task(loads[0].run(one, 80))
                    group.create_task(loads[1].run(other, 200))
            check_file(self._file)
            self._last = [call for load in loads for call in load.calls]
            async with self._gateway(simulator.url) as process:
                await self._look(process, simulator.url)
        return self.figures

    async def stop(self) -> Figures:
        """Have one end in the orderly way, at once: what it breaks off is recorded too."""
        async with Simulator(SimulatorConfig(itl=0.01)) as simulator:
            async with self._gateway(simulator.url, drain="0.01") as process:
                load = Load("stopped", self._chance)
                async with asyncio.TaskGroup() as group:
                    group.create_task(load.run(process, None))
                    await load.answered.wait()
                    process.kill(SIGTERM)
                await process.ended()
            self._last = load.calls
            async with self._gateway(simulator.url) as process:
                await self._look(process, simulator.url)
                async with AsyncGatewayClient(process.url) as client:
                    traces = await client.query_traces()
            begun = {call.call_id for call in load.calls if call.body}
            assert begun <= {trace.call_id for trace in traces}
        return self.figures

    def _gateway(
        self, simulator: str, *more: str, drain: str = "30"
    ) -> AbstractAsyncContextManager[Process]:
        settings = {
            "storage__path": str(self._file),
            "storage__durability": self._durability,
            "timeouts__drain": drain,
        }
        return serving(simulator, "--plugin", "sessions", "--plugin", CAPTURE, *more, **settings)


def check_file(file: Path) -> None:
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        # What a session counts was written with the traces, or not at all.
        query = """
            SELECT session_id, sessions.traces, count(number) FROM sessions
            LEFT JOIN traces USING (session_id) GROUP BY session_id
        """
        assert all(counted == found for _, counted, found in db.execute(query))


async def test_killed_gateway_has_a_trace_of_every_call_read_to_its_end(tmp_path: Path) -> None:
    figures = await Kills(tmp_path / "traces.db", seed=1).run(3)
    assert figures.finished > 3 * CALLERS
    assert figures.finished < figures.started, "each is killed in the middle of something"


@pytest.mark.slow
async def test_killed_gateways_sharing_a_file_have_a_trace_of_every_call_read(
    tmp_path: Path,
) -> None:
    figures = await Kills(tmp_path / "traces.db", seed=3).share()
    assert figures.finished >= 280


async def test_stopped_gateway_has_traces_of_the_calls_it_broke_off(tmp_path: Path) -> None:
    figures = await Kills(tmp_path / "traces.db", seed=5).stop()
    assert figures.unread > CALLERS / 3


@pytest.mark.slow
async def test_killed_gateway_with_durability_power_has_a_trace_of_every_call(
    tmp_path: Path,
) -> None:
    figures = await Kills(tmp_path / "traces.db", seed=4, durability="power").run(2)
    assert figures.finished > CALLERS


@pytest.mark.slow
@pytest.mark.timeout(7200)
async def test_many_killed_gateways_have_a_trace_of_every_call_read(
    tmp_path: Path, pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str]
) -> None:
    """`make kills KILLS=1000`: some at a time, each of them on its own file."""
    kills = pytestconfig.getoption("--kills")
    spans = iter(range(0, kills, KILLS_OF_A_FILE))
    figures = Figures()

    async def kill_on(lane: int) -> None:
        for start in spans:
            one = Kills(tmp_path / f"{lane}-{start}.db", seed=start)
            figures.add(await one.run(min(KILLS_OF_A_FILE, kills - start)))
            with capsys.disabled():
                sys.stdout.write(f"{figures}\n")

    async with asyncio.TaskGroup() as lanes:
        for lane in range(LANES):
            lanes.create_task(kill_on(lane))
    assert figures.kills == kills
