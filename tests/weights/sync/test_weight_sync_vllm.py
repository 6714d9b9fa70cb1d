"""Two real vLLMs change their weights while calls are running.

Opt-in: start two with `DEV=1 serve.sh DIR PORT`, then
`VLLM_URLS=http://127.0.0.1:8001,http://127.0.0.1:8002 VLLM_WEIGHTS=DIR/model,DIR/model-b pytest -m
vllm`. With `VLLM_KILL`, the ids of the second one's processes, it is killed in the last test.
"""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import httpx
import msgspec
import pytest
from support.gateways.capturing import CAPTURE

from gateway import Trace
from gateway.config import Config, Probes, StorageSettings, Worker
from gateway.testing import Live, entry, live

URLS = [url for url in os.environ.get("VLLM_URLS", "").split(",") if url]
WEIGHTS = os.environ.get("VLLM_WEIGHTS", "").split(",")
KILL = [int(pid) for pid in os.environ.get("VLLM_KILL", "").split(",") if pid]

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        len(URLS) != 2 or len(WEIGHTS) != 2,
        reason="VLLM_URLS and VLLM_WEIGHTS do not name two running vLLMs and two models",
    ),
]

CALLERS = 16
TOKENS = 48
TOLD_APART = 2
"""So many first tokens show whose weights sampled them, whatever the batch did to the rounding."""


class Said(msgspec.Struct, frozen=True):
    """What came of one call; `error` is None where its answer was whole."""

    call_id: str
    prompt: int
    error: str | None


class Load:
    """Callers that ask for greedy streams without end, each for its own prompt."""

    def __init__(self, running: Live) -> None:
        self.said: list[Said] = []
        self._running = running
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Load":
        self._tasks = [asyncio.create_task(self._call_on(prompt)) for prompt in range(CALLERS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    async def calls(self, count: int) -> None:
        """Wait until so many more are over."""
        target = len(self.said) + count
        while len(self.said) < target:  # noqa: ASYNC110  a real engine is watched
            await asyncio.sleep(0.05)

    async def _call_on(self, prompt: int) -> None:
        number = 0
        while True:
            number += 1
            call_id = f"{prompt}-{number}"
            error: str | None
            try:
                answer = await ask(self._running, prompt, call_id)
                error = None if answer.endswith("data: [DONE]\n\n") else answer[-200:]
            except httpx.HTTPError as broken:
                error = repr(broken)
            self.said.append(Said(call_id, prompt, error))


async def ask(running: Live, prompt: int, call_id: str) -> str:
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": f"Tell me of the harbour number {prompt}."}],
        "temperature": 0,
        "max_tokens": TOKENS,
        "ignore_eos": True,
        "stream": True,
    }
    headers = {"x-request-id": call_id, "x-session-id": "load"}
    answer = await running.client.post("/v1/chat/completions", json=body, headers=headers)
    return answer.text


async def change(running: Live, version: str, weights: str, mode: str = "wait") -> httpx.Response:
    order = {"version": version, "kwargs": {"weights_path": weights}, "mode": mode}
    return await running.client.post("/admin/weights", json=order)


async def traces(running: Live) -> dict[str, Trace]:
    """By call."""
    found: list[Trace] = []
    cursor = ""
    while True:
        query = f"?limit=200{cursor}"
        page = await running.client.get(f"/sessions/load/traces{query}")
        found += msgspec.json.decode(page.content, type=list[Trace])
        following = page.headers.get("x-next-cursor")
        if not following:
            return {trace.call_id: trace for trace in found}
        cursor = f"&cursor={following}"


async def known(running: Live, name: str) -> list[tuple[int, ...]]:
    """How the answers to all prompts begin with the weights of now."""
    for prompt in range(CALLERS):
        await ask(running, prompt, f"known-{name}-{prompt}")
    recorded = await traces(running)
    return [start(recorded[f"known-{name}-{prompt}"]) for prompt in range(CALLERS)]


def start(trace: Trace) -> tuple[int, ...]:
    return tuple(trace.completion_token_ids[:TOLD_APART])


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Live]:
    workers = tuple(Worker(url=url, worker_id=f"w{i}") for i, url in enumerate(URLS))
    config = Config(
        workers=workers,
        plugins=(
            entry("sessions"),
            entry(CAPTURE),
            entry("weight_sync", comment_interval=0.2, check_interval=0.5),
        ),
        storage=StorageSettings(path=str(tmp_path / "gateway.db")),
        probes=Probes(interval=1.0),
    )
    async with live(config) as serving:
        assert (await change(serving, "a", WEIGHTS[0])).status_code == 200
        yield serving
        with suppress(httpx.HTTPError):
            await change(serving, "a", WEIGHTS[0])


def check(recorded: dict[str, Trace], begins: dict[str, list[tuple[int, ...]]]) -> list[str]:
    """Whether each whole answer bears the version of the weights that sampled it; gives those."""
    versions = []
    for call_id, trace in recorded.items():
        prompt, _, number = call_id.partition("-")
        if not prompt.isdigit() or not number or trace.verdict != "COMPLETE":
            continue
        if trace.weight_versions.worker_end is not None:
            continue  # frozen: of either weights, or of both
        version = str(trace.weight_version)
        assert start(trace) == begins[version][int(prompt)], (call_id, version)
        versions.append(version)
    return versions


@pytest.mark.parametrize("mode", ["wait", "keep"])
async def test_vllm_calls_during_an_update_use_one_set_of_weights(running: Live, mode: str) -> None:
    begins = {"a": await known(running, "a")}
    async with Load(running) as load:
        await load.calls(CALLERS * 2)
        answer = await change(running, "b", WEIGHTS[1], mode)
        await load.calls(CALLERS * 3)
    report = answer.json()
    print(mode, json.dumps(report), len(load.said), "calls")  # noqa: T201  for the closing note
    assert (answer.status_code, report["ok"], report["failed"]) == (200, ["w0", "w1"], {})
    assert [said for said in load.said if said.error is not None] == []
    begins["b"] = await known(running, "b")
    assert all(one != other for one, other in zip(begins["a"], begins["b"], strict=True))
    recorded = await traces(running)
    versions = check(recorded, begins)
    assert set(versions) == {"a", "b"}
    changed = [trace for trace in recorded.values() if trace.weight_versions.worker_end is not None]
    assert bool(changed) == (mode == "keep")
    print(versions.count("a"), versions.count("b"), len(changed))  # noqa: T201


async def paused(url: str) -> None:
    """Returns as soon as the engine says so: then it has nothing to generate."""
    async with httpx.AsyncClient(base_url=url) as engine:
        while not (await engine.get("/is_paused")).json()["is_paused"]:
            pass


@pytest.mark.skipif(not KILL, reason="VLLM_KILL names no process to kill")
async def test_vllm_killed_during_an_update_costs_no_call(running: Live) -> None:
    begins = {"a": await known(running, "a")}
    async with Load(running) as load:
        await load.calls(CALLERS * 2)
        changing = asyncio.create_task(change(running, "b", WEIGHTS[1]))
        await paused(URLS[1])
        for pid in KILL:
            os.kill(pid, signal.SIGKILL)
        answer = await changing
        await load.calls(CALLERS * 3)
    report = answer.json()
    print(json.dumps(report), len(load.said), "calls")  # noqa: T201  for the closing note
    assert (answer.status_code, report["ok"], list(report["failed"])) == (200, ["w0"], ["w1"])
    begins["b"] = await known(running, "b")
    recorded = await traces(running)
    assert set(check(recorded, begins)) == {"a", "b"}
    assert [said for said in load.said if said.error is not None] == []
    states = (await running.client.get("/admin/weights")).json()["workers"]
    assert states["w0"] == {"version": "b", "epoch": 2, "state": "up"}
    assert states["w1"]["state"] in ("quarantined", "down")
