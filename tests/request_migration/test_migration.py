"""When a stream is carried on, by whom, and what is told of it."""

import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from gateway_plugins.request_migration import RequestMigration
from gateway_plugins.request_migration.fit import unfit
from request_migration.test_cuts import ASKED, MIGRATION, body, events_of, text_of
from support.gateways.capturing import CAPTURE, capturing
from support.plugins.recording_plugin import until
from support.steady import steady
from support.tito.agents import traces_of, with_tito
from support.workers.cut_worker import END, CutWorker, chunk
from support.workers.failing_worker import QUEUE_FULL, InOrder, refusal

from gateway import Call, Event, Trace, WeightSpan, hookimpl
from gateway.config import StorageSettings, Timeouts
from gateway.pipeline.migration.continued import Passing
from gateway.simulator import Simulator, SimulatorConfig
from gateway.testing import GatewayFor, Live, ScriptedWorker, entry, sse

WITH_DASH = [
    *(40, 50, 60, 390, 0, 275, 407, 568, 754, 280, 560, 809),
    *(272, 307, 610, 49, 261, 340, 617, 738, 274, 569),
]
"""The ids of a prompt whose likeliest continuation has a dash, which is two tokens."""

SCALE_OUT = SimulatorConfig(scale_out=True)
DEAD = {"error": {"message": "EngineCore died", "type": "InternalServerError", "code": 500}}


@pytest.fixture
async def engine() -> AsyncIterator[Simulator]:
    async with Simulator(SCALE_OUT) as one:
        yield one


@pytest.fixture
async def cut(engine: Simulator) -> AsyncIterator[CutWorker]:
    async with CutWorker(engine) as one:
        yield one


async def begin(
    gateway_for: GatewayFor, folder: Path, urls: Sequence[str], limit: int = 3, **settings: Any
) -> Live:
    plugin = entry(MIGRATION, migration_limit=limit)
    return await capturing(gateway_for, folder, plugin, InOrder, workers=urls, **settings)


async def events(live: Live, api: str = "completions", **fields: object) -> str:
    """Return the stream of a call of the session `s`; what came of it, if it breaks off."""
    found, path = "", f"/sessions/s{ASKED[api][0]}"
    try:
        async with live.client.stream("POST", path, json=body(api, **fields)) as answer:
            async for part in answer.aiter_text():
                found += part
    except httpx.RemoteProtocolError:
        return found
    return found


async def trace_of(live: Live) -> Trace:
    return (await traces_of(live, "s"))[-1]


def counted(live: Live) -> dict[str, float]:
    samples = live.plugin(RequestMigration).samples()
    return {one.labels["result"]: one.value for one in samples if isinstance(one.value, int)}


@pytest.mark.parametrize(
    ("api", "fields", "word"),
    [
        ("chat", {"tools": [{"type": "function"}]}, "tools"),
        ("chat", {"tools": [{"type": "function"}], "tool_choice": "none"}, None),
        ("chat", {"messages": [{"content": [{"type": "image_url"}]}]}, "messages"),
        ("chat", {"messages": [{"content": [{"type": "text", "text": "x"}]}]}, None),
        ("completions", {"stop": ["x"]}, "stop"),
        ("completions", {"stop": [], "n": 1, "presence_penalty": 0, "echo": False}, None),
        ("completions", {"n": 2}, "n"),
        ("completions", {"prompt": ["a", "b"]}, "prompt"),
        ("completions", {"prompt": [[1, 2]]}, None),
        ("completions", {"prompt_logprobs": 0}, "prompt_logprobs"),
        ("completions", {"response_format": {"type": "json_object"}}, "response_format"),
        ("completions", {"response_format": {"type": "text"}}, None),
        ("completions", {"guided_regex": "a+"}, "guided_regex"),
        ("completions", {"use_beam_search": True}, "use_beam_search"),
        ("generate", {"sampling_params": {"stop": "x"}}, "stop"),
        ("generate", {"sampling_params": {"n": 2}}, "n"),
        ("generate", {"sampling_params": {}, "features": {"mm": 1}}, "features"),
        ("generate", {"sampling_params": None}, None),
    ],
)
def test_requests_that_cannot_be_carried_on_are_known(
    api: str, fields: dict[str, Any], word: str | None
) -> None:
    reason = unfit(api, fields)
    assert (reason and reason.split(":")[0]) == word


async def test_a_stream_that_cannot_be_carried_on_breaks_off_and_its_trace_says_why(
    gateway_for: GatewayFor, tmp_path: Path, engine: Simulator, cut: CutWorker
) -> None:
    live = await begin(gateway_for, tmp_path, [cut.url, engine.url])
    cut.cut = 2_000
    text = await events(live, stop=["zebra"])
    assert not text.endswith("data: [DONE]\n\n")
    trace = await trace_of(live)
    assert trace.reasons == ["worker_broke_off", "unfinished"]
    assert "stop: a stop string" in trace.metadata["worker_broke_off"]
    assert counted(live) == {"migrated": 0, "lost": 1}


@pytest.mark.parametrize("last", [END, chunk(sse(DEAD) + sse("[DONE]")) + END])
async def test_an_end_without_a_finish_and_an_error_of_the_engine_are_breaks(
    gateway_for: GatewayFor,
    tmp_path: Path,
    engine: Simulator,
    cut: CutWorker,
    last: bytes,
) -> None:
    live = await begin(gateway_for, tmp_path, [cut.url, engine.url])
    cut.cut = 1 << 30
    whole = text_of(events_of(await events(live)))
    cut.cut, cut.last = cut.whole.find(b"\n\n", 1_500) + 2, last
    assert text_of(events_of(await events(live))) == whole
    trace = await trace_of(live)
    assert trace.verdict == "COMPLETE", trace.reasons
    assert [one.error for one in trace.attempts][1:] == [None]
    assert trace.attempts[0].error is not None
    assert counted(live) == {"migrated": 1, "lost": 0}


@steady
async def test_a_silent_worker_is_left(
    gateway_for: GatewayFor, tmp_path: Path, engine: Simulator, cut: CutWorker
) -> None:
    timeouts = Timeouts(idle=0.15)
    live = await begin(gateway_for, tmp_path, [cut.url, engine.url], timeouts=timeouts)
    cut.cut, cut.hangs = 2_000, True
    events_of(await events(live))
    trace = await trace_of(live)
    assert [one.error for one in trace.attempts] == ["upstream_idle_timeout", None]
    assert trace.verdict == "COMPLETE"
    assert trace.delivery.result == "success"


@pytest.mark.parametrize("limit", [1, 2])
async def test_a_stream_is_carried_on_as_often_as_the_limit_says(
    gateway_for: GatewayFor, tmp_path: Path, engine: Simulator, cut: CutWorker, limit: int
) -> None:
    async with CutWorker(engine) as second:
        urls = [cut.url, second.url, engine.url]
        live = await begin(gateway_for, tmp_path, urls, limit)
        cut.cut, second.cut = 2_000, 1_500
        text = await events(live)
        trace = await trace_of(live)
    assert text.endswith("data: [DONE]\n\n") == (limit == 2)
    assert [one.error for one in trace.attempts] == [*["upstream_closed"] * 2, None][: limit + 1]
    if limit == 2:
        assert sum(one.tokens or 0 for one in trace.attempts) == 24
        assert trace.verdict == "COMPLETE"
    else:
        assert "migration_limit" in trace.metadata["worker_broke_off"]
    assert counted(live) == {"migrated": limit, "lost": 2 - limit}


REFUSED = (
    b"HTTP/1.1 503 Not Now\r\ncontent-type: application/json\r\n"
    b"transfer-encoding: chunked\r\n\r\n" + chunk(QUEUE_FULL)
)
NO_STREAM = REFUSED.replace(b"503 Not Now", b"200 OK")


@pytest.mark.parametrize(
    ("answer", "status"),
    [(refusal(503), 503), (REFUSED, 503), (REFUSED + END, 503), (NO_STREAM + END, 200)],
)
async def test_a_worker_that_refuses_to_carry_on_is_passed_by(
    gateway_for: GatewayFor,
    tmp_path: Path,
    engine: Simulator,
    cut: CutWorker,
    answer: bytes,
    status: int,
) -> None:
    """The caller gets nothing of the refusal, even if a part of its body comes with its head."""
    async with ScriptedWorker(answer) as busy:
        live = await begin(gateway_for, tmp_path, [cut.url, busy.url, engine.url])
        cut.cut = 1 << 30
        whole = text_of(events_of(await events(live)))
        cut.cut = 2_000
        assert text_of(events_of(await events(live))) == whole
        trace = await trace_of(live)
    assert [one.status for one in trace.attempts] == [200, status, 200]
    assert trace.verdict == "COMPLETE"


async def test_without_another_worker_the_stream_breaks_off(
    gateway_for: GatewayFor, tmp_path: Path, cut: CutWorker
) -> None:
    live = await begin(gateway_for, tmp_path, [cut.url])
    cut.cut = 2_000
    text = await events(live)
    assert text.endswith("\n\n")
    assert "[DONE]" not in text
    trace = await trace_of(live)
    assert "no other worker" in trace.metadata["worker_broke_off"]
    assert trace.error is not None
    assert counted(live) == {"migrated": 0, "lost": 1}


@pytest.mark.parametrize("api", ["completions", "generate"])
async def test_the_trace_has_the_weights_of_both_workers(
    gateway_for: GatewayFor, tmp_path: Path, engine: Simulator, cut: CutWorker, api: str
) -> None:
    live = await begin(gateway_for, tmp_path, [cut.url, engine.url])
    for version, worker in enumerate(live.gateway.workers.all, start=7):
        worker.weight_version = version
    cut.cut = 2_000
    events_of(await events(live, api))
    trace = await trace_of(live)
    first, second = trace.attempts
    assert (first.weight_version, second.weight_version) == (7, 8)
    count = first.tokens or 0
    spans = trace.choices[0].weight_versions or []
    assert spans[0] == WeightSpan(version=7, start=0, end=count)
    assert (spans[1].start, spans[1].end) == (count, 24)
    assert first.tokens
    assert second.tokens == 24 - count


async def test_a_chat_with_tito_is_carried_on(
    gateway_for: GatewayFor, tmp_path: Path, engine: Simulator, cut: CutWorker
) -> None:
    live = await begin(gateway_for, tmp_path, [cut.url, engine.url])
    kept: dict[str, Any] = {"temperature": 0, "stream": True, "max_tokens": 24}
    kept |= {"allowed_token_ids": None}
    cut.cut = 1 << 30
    whole = await (await with_tito(live, "whole", **kept)).say("Hello")
    for at in range(700, len(cut.whole) - 300, 800):
        cut.cut = at
        agent = await with_tito(live, f"s{at}", **kept)
        assert await agent.say("Hello") == whole
        trace = (await traces_of(live, f"s{at}"))[0]
        assert trace.verdict == "COMPLETE", trace.metadata
        assert len(trace.attempts) == 2
        assert trace.metadata["tito"]["prompt"] == "rendered"


@pytest.mark.parametrize("logprobs", [True, False])
async def test_several_tokens_for_each_event_are_carried_on_if_logprobs_tell_their_texts(
    gateway_for: GatewayFor, tmp_path: Path, engine: Simulator, cut: CutWorker, logprobs: bool
) -> None:
    """Without logprobs, a stream that breaks off within a character is not carried on."""
    settings = {"storage": StorageSettings(path=str(tmp_path / "traces.db"))}
    plugins = ("sessions", entry(CAPTURE, logprobs=logprobs), MIGRATION, InOrder)
    live = await gateway_for(*plugins, workers=[cut.url, engine.url], **settings)
    asked: dict[str, Any] = {"prompt": WITH_DASH, "stream_interval": 2}
    cut.cut = 1 << 30
    whole, lost = text_of(events_of(await events(live, **asked))), 0
    assert "\u2014" in whole
    ends = [match.end() for match in re.finditer(rb"\n\n", cut.whole)]
    for at in ends[1:-3]:
        cut.cut = at
        said = await events(live, **asked)
        if said.endswith("data: [DONE]\n\n"):
            assert text_of(events_of(said)) == whole
        else:
            lost += 1
            assert "within a character" in (await trace_of(live)).metadata["worker_broke_off"]
    assert lost == (0 if logprobs else 1)


class Clumsy:
    """A plugin whose continuation fails."""

    @hookimpl
    async def prepare(self, call: Call) -> None:
        call.continuation = self  # type: ignore[assignment]

    tokens = None

    def event(self, event: Event) -> bytes:
        raise ValueError("a mistake")


async def test_a_continuation_that_fails_harms_no_stream(
    gateway_for: GatewayFor, tmp_path: Path, engine: Simulator
) -> None:
    live = await capturing(gateway_for, tmp_path, Clumsy, workers=[engine.url])
    assert len(text_of(events_of(await events(live)))) > 10
    trace = await trace_of(live)
    assert trace.reasons == ["capture_failed"]


async def test_a_caller_that_leaves_is_not_carried_on(
    gateway_for: GatewayFor, tmp_path: Path, engine: Simulator, cut: CutWorker
) -> None:
    live = await begin(gateway_for, tmp_path, [cut.url, engine.url])
    cut.cut, cut.hangs = 2_000, True
    path = f"/sessions/s{ASKED['completions'][0]}"
    async with live.client.stream("POST", path, json=body("completions")) as answer:
        await anext(answer.aiter_text())
    await until(lambda: not live.gateway.proxy.in_flight)
    trace = await trace_of(live)
    assert len(trace.attempts) == 1
    assert trace.delivery.caller_gone


class Closing(Passing):
    """A plugin whose continuation takes a broken stream for one that lacks its end alone."""

    @hookimpl
    async def prepare(self, call: Call) -> None:
        call.continuation = self

    def rest(self) -> bytes | None:
        return sse("[DONE]")


async def test_a_stream_that_ends_well_after_all_is_not_lost(
    gateway_for: GatewayFor, tmp_path: Path, engine: Simulator, cut: CutWorker
) -> None:
    plugins = (MIGRATION, Closing, InOrder)
    live = await capturing(gateway_for, tmp_path, *plugins, workers=[cut.url, engine.url])
    cut.cut = 1 << 30
    await events(live, stop=["zebra"])
    cut.cut = cut.whole.find(b"data: [DONE]")
    events_of(await events(live, stop=["zebra"]))
    trace = await trace_of(live)
    assert [one.error for one in trace.attempts] == ["upstream_closed"]
    assert trace.verdict == "COMPLETE", trace.reasons
    assert counted(live) == {"migrated": 0, "lost": 0}
