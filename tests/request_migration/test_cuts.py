"""A stream is cut at any byte, and nobody sees it: property of the plugin request_migration."""

import json
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.gateways.capturing import capturing
from support.tito.agents import traces_of
from support.workers.cut_worker import CutWorker
from support.workers.failing_worker import InOrder

from gateway import Trace
from gateway.simulator import Simulator, SimulatorConfig
from gateway.testing import GatewayFor, Live

MIGRATION = "gateway_plugins.request_migration:RequestMigration"
TOKENS = 24

ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "completions": ("/v1/completions", {"prompt": "@PROMPT@", "temperature": 0}),
    "chat": (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "@PROMPT@"}], "temperature": 0},
    ),
    "generate": (
        "/inference/v1/generate",
        {
            "token_ids": [40, 50, 60],
            "sampling_params": {"max_tokens": TOKENS, "temperature": 0},
            "output_mode": "text",
        },
    ),
    "ids only": (
        "/inference/v1/generate",
        {"token_ids": [40, 50, 60], "sampling_params": {"max_tokens": TOKENS, "temperature": 0}},
    ),
}


def body(api: str, **fields: object) -> dict[str, Any]:
    asked = {"model": "sim", "stream": True, **ASKED[api][1], **fields}
    return asked if "sampling_params" in asked else {"max_tokens": TOKENS, **asked}


def events_of(text: str) -> list[dict[str, Any]]:
    assert text.endswith("data: [DONE]\n\n"), text[-300:]
    return [json.loads(one[6:]) for one in text.split("\n\n")[:-2]]


def text_of(events: Sequence[dict[str, Any]]) -> str:
    choices = [choice for event in events for choice in event["choices"]]
    return "".join(
        one.get("text") or (one.get("delta") or {}).get("content") or "" for one in choices
    )


class Stage:
    """A gateway whose first worker cuts streams off, and what a whole stream is like."""

    def __init__(self, live: Live, cut: CutWorker) -> None:
        self.live, self.cut = live, cut
        self._calls = 0

    async def stream(self, api: str, at: int, **fields: object) -> tuple[str, Trace]:
        """Return a stream that is cut after so many bytes, and its trace."""
        self.cut.cut, self._calls = at, self._calls + 1
        session = f"s{self._calls}"
        path = f"/sessions/{session}{ASKED[api][0]}"
        answer = await self.live.client.post(path, json=body(api, **fields))
        return answer.text, (await traces_of(self.live, session))[0]


@pytest.fixture
async def stage(gateway_for: GatewayFor, tmp_path: Path) -> AsyncIterator[Stage]:
    async with Simulator(SimulatorConfig(scale_out=True)) as engine, CutWorker(engine) as cut:
        workers = [cut.url, engine.url]
        live = await capturing(gateway_for, tmp_path, MIGRATION, InOrder, workers=workers)
        yield Stage(live, cut)


async def check(stage: Stage, api: str, cuts: Sequence[int], **fields: object) -> None:
    text, whole = await stage.stream(api, 1 << 30, **fields)
    said = text_of(events_of(text))
    assert whole.verdict == "COMPLETE"
    for at in cuts:
        text, trace = await stage.stream(api, at, **fields)
        events = events_of(text)
        assert text_of(events) == said, at
        assert len({event.get("id") or event["request_id"] for event in events}) == 1
        assert trace.verdict == "COMPLETE", (at, trace.reasons, trace.metadata)
        assert trace.completion_token_ids == whole.completion_token_ids
        assert trace.prompt_token_ids == whole.prompt_token_ids
        assert trace.token_counts == whole.token_counts
        assert trace.logprobs == pytest.approx(whole.logprobs)
        assert trace.finish_reason == whole.finish_reason
        _check_attempts(trace)


def _check_attempts(trace: Trace) -> None:
    first, *others = trace.attempts
    assert first.error == "upstream_closed"
    if others:
        assert [one.error for one in others] == [None]
        assert sum(one.tokens or 0 for one in trace.attempts) == len(trace.completion_token_ids)


async def sizes(stage: Stage, api: str, **fields: object) -> int:
    await stage.stream(api, 0, **fields)
    return len(stage.cut.whole)


@pytest.mark.parametrize("api", ASKED)
async def test_a_stream_that_is_cut_anywhere_is_carried_on(stage: Stage, api: str) -> None:
    size, chance = await sizes(stage, api), random.Random(api)
    await check(stage, api, [0, 1, size - 1, *(chance.randrange(size) for _ in range(12))])


@pytest.mark.slow
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("api", ASKED)
async def test_a_stream_is_carried_on_from_every_byte(stage: Stage, api: str) -> None:
    few: dict[str, Any] = {"max_tokens": 5}
    if "sampling_params" in ASKED[api][1]:
        few = {"sampling_params": {"max_tokens": 5, "temperature": 0}}
    await check(stage, api, range(await sizes(stage, api, **few)), **few)
