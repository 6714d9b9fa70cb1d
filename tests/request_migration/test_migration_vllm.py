"""A real vLLM is killed in mid-stream, and another one carries its streams on.

Opt-in: `VLLM_HOME=DIR pytest -m vllm tests/request_migration -n 0`.
"""

import asyncio
import contextlib
import os
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from request_migration.test_cuts import MIGRATION, events_of, text_of
from support.gateways.capturing import capturing
from support.tito.agents import traces_of
from support.workers.failing_worker import InOrder
from trace_capture.tapped.engine import VLLM, vllm

from gateway.client import AsyncGatewayClient
from gateway.testing import GatewayFor, Live

HOME = os.environ.get("VLLM_HOME", "")
TOKENS = 1_500

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(not HOME, reason="VLLM_HOME does not name a folder with a vLLM"),
    pytest.mark.timeout(1_800),
]

EXACT = ("--dtype", "float32")
"""So that the likeliest token does not depend on what else is computed beside it."""

GREEDY = {"model": "tiny", "stream": True, "temperature": 0}
SAMPLING = {"max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
MESSAGES = [{"role": "user", "content": "Tell me of the sea — and of café tables."}]

ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "completions": (
        "/v1/completions",
        {"prompt": "The sea", "max_tokens": TOKENS, "ignore_eos": True},
    ),
    "chat": (
        "/v1/chat/completions",
        {"messages": MESSAGES, "max_tokens": TOKENS, "ignore_eos": True},
    ),
    "chat without max_tokens": ("/v1/chat/completions", {"messages": MESSAGES, "min_tokens": 60}),
    "generate": (
        "/inference/v1/generate",
        {"token_ids": [70, 80, 90], "sampling_params": SAMPLING, "output_mode": "text"},
    ),
    "tito": (
        "/v1/chat/completions",
        {"messages": MESSAGES, "max_tokens": TOKENS, "ignore_eos": True},
    ),
}


class Stage:
    def __init__(self, live: Live) -> None:
        self.live = live
        self._begun: dict[str, asyncio.Event] = {}

    async def stream(self, kind: str, session: str, *, begun_after: int = 0) -> str:
        """Return a stream, even if it breaks off; tells `begun` after so many events."""
        path, asked = ASKED[kind]
        if kind == "tito":
            async with AsyncGatewayClient(self.live.url) as client:
                await client.create_session(session, tito="require")
        seen = self._begun.setdefault(session, asyncio.Event())
        found, url = "", f"/sessions/{session}{path}"
        with contextlib.suppress(httpx.RemoteProtocolError):
            async with self.live.client.stream("POST", url, json={**GREEDY, **asked}) as answer:
                async for part in answer.aiter_text():
                    found += part
                    if found.count("\n\n") >= begun_after:
                        seen.set()
        return found

    async def begun(self, session: str) -> None:
        await self._begun.setdefault(session, asyncio.Event()).wait()


async def _check(stage: Stage, victim: VLLM, whole: dict[str, str], *, core: bool) -> None:
    """Kill the engine while it sends a stream of each kind."""
    sessions = {kind: f"{kind}-{core}".replace(" ", "-") for kind in ASKED}
    async with asyncio.TaskGroup() as streaming:
        running = {
            kind: streaming.create_task(stage.stream(kind, session, begun_after=15))
            for kind, session in sessions.items()
        }
        for session in sessions.values():
            await stage.begun(session)
        await victim.kill(core=core)
    for kind, session in sessions.items():
        trace = (await traces_of(stage.live, session))[0]
        assert trace.verdict == "COMPLETE", (kind, trace.reasons, trace.metadata)
        said = text_of(events_of(running[kind].result()))
        assert said == text_of(events_of(whole[kind])), kind
        given = [one.tokens or 0 for one in trace.attempts]
        assert len(given) == 2
        assert min(given) > 0
        assert sum(given) == len(trace.completion_token_ids)


async def test_greedy_text_is_that_of_an_undisturbed_run(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    """The process of the server is killed, and then that of the engine alone, which is reported."""
    async with AsyncExitStack() as stack:
        engines = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            engine = await stack.enter_async_context(vllm(Path(HOME), tmp_path / name))
            await engine.start(Path(HOME, "model"), *EXACT)
            engines.append(engine)
        urls = [engine.url for engine in engines]
        stage = Stage(await capturing(gateway_for, tmp_path, MIGRATION, InOrder, workers=urls))
        whole = {
            kind: await stage.stream(kind, f"whole-{place}") for place, kind in enumerate(ASKED)
        }
        await _check(stage, engines[0], whole, core=False)
        await engines[0].start(Path(HOME, "model"), *EXACT)
        await _check(stage, engines[0], whole, core=True)
