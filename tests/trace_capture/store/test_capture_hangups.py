"""Callers that hang up: each call that was started has one trace, of what was sampled till then."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any, Literal, get_args

import httpx
import msgspec
import pytest
from gateway_plugins.trace_capture.recording.observer import Capture
from support.callers.leaving_caller import alive, leave, open_descriptors
from support.callers.raw_client import RawClient, head_of
from support.callers.sampled_tokens import ASKS, Sampled, sampled, sampled_of
from support.gateways.capturing import capturing
from support.plugins.recording_plugin import PATIENCE, until

from gateway import Call, Trace, hookimpl
from gateway.client import AsyncGatewayClient
from gateway.simulator import Simulator, SimulatorConfig
from gateway.testing import GatewayFor, Live

pytestmark = pytest.mark.usefixtures("kernel_of_module")

CALLERS = 200
PATH = "/v1/chat/completions"

Moment = Literal["half sent", "sent", "started", "head", "some", "whole"]
MOMENTS: tuple[Moment, ...] = get_args(Moment)
"""When a caller leaves: after half of its request, all of it, once the gateway observes the call,
after the answer's head, after some of its body, after all of it."""

LEAST = 4_000
"""Bytes that each of the streams has."""

JSON_BODY = (b"content-type", b"application/json")


class Started:
    """Keeps the ids of the calls that are observed, as they begin."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self._begun: dict[str, asyncio.Event] = {}

    @hookimpl
    def observe(self, call: Call) -> None:
        self.ids.append(call.id)
        self.begun(call.id).set()

    def begun(self, call_id: str) -> asyncio.Event:
        return self._begun.setdefault(call_id, asyncio.Event())


class Leaver(msgspec.Struct):
    """A caller that leaves at `moment`; `part` is how much of the body it reads."""

    call_id: str
    moment: Moment
    reset: bool
    part: float
    ttft: float
    request: dict[str, Any]

    async def run(self, live: Live) -> None:
        async with RawClient(*live.server.address) as client, asyncio.timeout(PATIENCE):
            await self._ask(client, live)
            leave(client, reset=self.reset)

    async def _ask(self, client: RawClient, live: Live) -> None:
        body = json.dumps(self.request).encode()
        sent = body[: len(body) // 2] if self.moment == "half sent" else body
        await client.send(self._head(len(body)) + sent)
        if self.moment == "whole":
            await client.answer("POST")
        elif self.moment == "started":
            await live.plugin(Started).begun(self.call_id).wait()
        elif self.moment in ("head", "some"):
            length = (await client.head()).value(b"content-length")
            if self.moment == "some":
                size = LEAST if length is None else int(length)
                await client.reader.readexactly(1 + int(self.part * (size - 1)))

    def _head(self, length: int) -> bytes:
        lines = [
            JSON_BODY,
            (b"content-length", b"%d" % length),
            (b"x-request-id", self.call_id.encode()),
            (b"x-sim-ttft", b"%f" % self.ttft),
        ]
        return head_of("POST", f"/sessions/hasty{PATH}", lines)


def leavers(chance: Random, name: str) -> list[Leaver]:
    return [
        Leaver(
            call_id=f"{name}-{number}",
            moment=MOMENTS[number % len(MOMENTS)],
            reset=chance.random() < 0.5,
            part=chance.random(),
            ttft=chance.choice((0, 0.05)),
            request=_request(chance, number),
        )
        for number in range(CALLERS)
    ]


def _request(chance: Random, number: int) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": f"Tell me about harbour {number % 20}."}],
        "max_tokens": 40,
        "min_tokens": 20,
        "seed": chance.randrange(1_000_000),
        "n": chance.choice((1, 1, 3)),
        "stream": chance.random() < 0.7,
    }


async def hang_up(live: Live, callers: list[Leaver]) -> None:
    """All at once; returns when the gateway has done with them."""
    async with asyncio.TaskGroup() as group:
        for one in callers:
            group.create_task(one.run(live))
    await until(lambda: not live.server.server_state.connections)
    await until(lambda: not live.gateway.proxy.in_flight)


async def stay(live: Live, engine: Simulator) -> None:
    """One more call, to its end: the writer's thread holds on to the latest group."""
    await engine.idle()
    last = Leaver("last", "whole", reset=False, part=0, ttft=0, request=_request(Random(0), 0))
    await hang_up(live, [last])


async def full(engine: httpx.AsyncClient, request: dict[str, Any]) -> dict[int, Sampled]:
    """What the engine samples for it when nobody hangs up."""
    body = {**request, **ASKS, "stream": False}
    answer = await engine.post(PATH, json=body, headers={"x-sim-itl": "0"})
    return sampled(answer.content, stream=False)


def check(trace: Trace, caller: Leaver, whole: dict[int, Sampled]) -> int:
    """Gives how many tokens were recorded."""
    recorded = sampled_of(trace)
    assert recorded.keys() <= whole.keys()
    for index, one in recorded.items():
        count = len(one.token_ids)
        assert one.token_ids == whole[index].token_ids[:count]
        assert one.logprobs == whole[index].logprobs[:count]
        assert whole[index].content.startswith(one.content)
        assert one.prompt == whole[index].prompt
    if trace.verdict == "COMPLETE":
        assert recorded == whole
    else:
        assert caller.moment != "whole"
        assert "caller_gone" in trace.reasons
    assert trace.raw_request == caller.request
    return sum(len(one.token_ids) for one in recorded.values())


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
async def test_capture_stores_one_trace_per_started_call_if_callers_hang_up(
    gateway_for: GatewayFor, tmp_path: Path, seed: int
) -> None:
    async with Simulator(SimulatorConfig(itl=0.005)) as engine:
        live = await capturing(gateway_for, tmp_path, f"{__name__}:Started", workers=[engine.url])
        callers = {one.call_id: one for one in leavers(Random(seed), "call")}
        await hang_up(live, list(callers.values()))
        async with AsyncGatewayClient(live.url) as client:
            traces = await client.get_session_traces("hasty")
            session = await client.get_session_info("hasty")
        started = live.plugin(Started).ids
        assert Counter(trace.call_id for trace in traces) == Counter(started)
        surely = [one for one in callers.values() if one.moment not in ("half sent", "sent")]
        assert {one.call_id for one in surely} <= set(started)
        async with httpx.AsyncClient(base_url=engine.url, timeout=None) as direct:
            tokens = {
                trace.call_id: check(trace, caller, await full(direct, caller.request))
                for trace in traces
                for caller in [callers[trace.call_id]]
            }
        incomplete = [trace for trace in traces if trace.verdict == "INCOMPLETE"]
        assert (session.trace_count, session.lost) == (len(traces), 0)
        assert session.incomplete == len(incomplete) > CALLERS / 4
        partial = [trace for trace in incomplete if tokens[trace.call_id]]
        assert len(partial) > CALLERS / 20, "some were cut off in the middle of their tokens"


@pytest.mark.slow
async def test_capture_leaks_nothing_if_callers_hang_up(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    async with Simulator(SimulatorConfig(itl=0.002)) as engine:
        live = await capturing(gateway_for, tmp_path, f"{__name__}:Started", workers=[engine.url])
        await hang_up(live, leavers(Random(3), "first"))
        await stay(live, engine)
        tasks, objects = asyncio.all_tasks(), alive(Capture)
        descriptors = open_descriptors() - engine.stats.connections * 2
        for turn in range(3):
            await hang_up(live, leavers(Random(turn), f"call-{turn}"))
        await stay(live, engine)
        await until(lambda: asyncio.all_tasks() <= tasks)
        # A connection to the engine that is kept has its two ends in this process.
        await until(lambda: open_descriptors() - engine.stats.connections * 2 <= descriptors)
        health = live.gateway.storage.health
        assert (health.waiting, health.waiting_bytes, health.lost) == (0, 0, 0)
        assert [worker.in_flight for worker in live.gateway.workers.all] == [0]
        found = alive(Capture)
        found["Connection"] = min(found["Connection"], objects["Connection"])  # the pool's
        assert found <= objects
