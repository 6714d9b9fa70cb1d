"""Reloads while many calls run: each call is whole, and each has its trace."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.callers.raw_client import RawClient
from support.gateways.capturing import chat
from support.gateways.reloadable import Named, Other, Reloadable, Yielding, reloadable
from support.plugins.capture_probes import Redactor
from support.plugins.recording_plugin import until

from gateway.simulator import Simulator, SimulatorConfig
from gateway.testing import DONE, ScriptedConnection, ScriptedWorker, sse

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
JSON = [(b"content-type", b"application/json")]
BODY = msgspec.json.encode(chat(stream=True))
BEGUN = sse({"choices": [{"index": 0, "delta": {"content": "Hello"}}]})


def holding(until_then: asyncio.Event) -> Callable[[ScriptedConnection], Awaitable[None]]:
    """A script: begins each answer at once, and ends it when all may end."""

    async def hold(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.write(HEAD + BEGUN)
        await until_then.wait()
        await connection.write(DONE)

    return hold


async def a_stream(running: Reloadable, session_id: str) -> bytes:
    async with RawClient(*running.live.server.address) as client:
        path = f"/sessions/{session_id}/v1/chat/completions"
        answer = await client.ask("POST", path, JSON, BODY)
    assert answer.status == 200, answer.body
    return answer.body


async def traced(running: Reloadable) -> Counter[str]:
    """How many traces each session has."""
    found = (await running.client.post("/traces/query", json={})).json()
    return Counter(trace["session_id"] for trace in found)


@pytest.mark.parametrize("anew", [False, True], ids=["as it is", "anew"])
async def test_reload_of_trace_capture_options_loses_no_trace(tmp_path: Path, anew: bool) -> None:
    may_end = asyncio.Event()
    file = tmp_path / "gateway.yaml"
    async with (
        ScriptedWorker(holding(may_end)) as worker,
        reloadable(file, "sessions", "trace_capture", workers=[worker.url]) as running,
    ):
        names = [f"s-{number}" for number in range(200)]
        calls = [asyncio.create_task(a_stream(running, name)) for name in names[:150]]
        await until(lambda: len(worker.requests) == 150)
        if anew:
            await running.changed("sessions", workers=[worker.url])
        options = ("trace_capture", {"logprobs": False, "keep_days": 1})
        await running.changed("sessions", options, workers=[worker.url])
        calls += [asyncio.create_task(a_stream(running, name)) for name in names[150:]]
        await until(lambda: len(worker.requests) == 200)
        may_end.set()
        assert set(await asyncio.gather(*calls)) == {BEGUN + DONE}
        assert b'"logprobs":true' in worker.requests[0]
        assert b'"logprobs":true' not in worker.requests[-1]
        assert await traced(running) == Counter(names)


async def test_deleting_a_session_after_a_reload_keeps_later_traces_whole(
    tmp_path: Path,
) -> None:
    may_end, file = asyncio.Event(), tmp_path / "gateway.yaml"
    may_end.set()
    async with (
        ScriptedWorker(holding(may_end)) as worker,
        reloadable(file, "sessions", "trace_capture", workers=[worker.url]) as running,
    ):
        await a_stream(running, "s")
        may_end.clear()
        late = asyncio.create_task(a_stream(running, "s"))
        await until(lambda: len(worker.requests) == 2)
        options = ("trace_capture", {"keep_days": 1})
        await running.changed("sessions", options, workers=[worker.url])
        assert (await running.client.delete("/sessions/s")).status_code == 200
        may_end.set()
        await late
        assert (await running.client.get("/sessions/s/traces")).json() == []
        await a_stream(running, "s")
        [trace] = (await running.client.get("/sessions/s/traces")).json()
        assert trace["messages"] == chat()["messages"]


async def test_reloads_under_load_drop_no_call_and_no_trace(tmp_path: Path) -> None:
    config = SimulatorConfig(itl=0.005)
    async with Simulator(config) as one, Simulator(config) as two:
        workers = itertools.cycle([[one.url], [one.url, two.url], [two.url]])
        kinds = ["sessions", "trace_capture"]
        file = tmp_path / "gateway.yaml"
        async with reloadable(file, *kinds, workers=next(workers)) as running:
            made: list[bytes] = []
            over = asyncio.Event()

            async def keep_calling(name: str) -> None:
                while not over.is_set():
                    made.append(await a_stream(running, name))

            async with asyncio.TaskGroup() as callers:
                for number in range(12):
                    callers.create_task(keep_calling(f"s-{number}"))
                for number in range(6):
                    options = ("trace_capture", {"max_queued": number + 1})
                    some = [
                        (Named, {"name": f"n{number}"}),
                        (Yielding, {"name": f"y{number}"}),
                        (Other, {"name": "other"}),
                    ]
                    plugins = ["sessions", options, *some[number % 3 :]]
                    await running.changed(*plugins, workers=next(workers))
                    enough = len(made) + 4
                    await until(lambda: len(made) >= enough)  # noqa: B023
                over.set()
            assert all(answer.endswith(DONE) for answer in made)
            assert (await traced(running)).total() == len(made)
            assert running.live.gateway.workers.slots.used == 0


async def test_reload_activates_a_new_redactor(tmp_path: Path, simulator: Simulator) -> None:
    file, workers = tmp_path / "gateway.yaml", [simulator.url]
    async with reloadable(file, "sessions", "trace_capture", workers=workers) as running:
        redactor: Any = (Redactor, {"does": "words"})
        await running.changed("sessions", "trace_capture", redactor, workers=workers)
        await a_stream(running, "a")
        [trace] = (await running.client.get("/sessions/a/traces")).json()
        assert trace["messages"] == []
