"""What a real vLLM and other engines have sent is replayed as the gateway first sent it on."""

from pathlib import Path

import msgspec
import pytest
from support.agents.tool_agent import CAPTURE, REPLAY, exported, traces_of
from support.callers.raw_client import CutShort, RawAnswer, RawClient
from support.records.vllm_recordings import OTHER_ENGINES, RecordedExchange, load
from support.workers.playing import Playing, end_to_end, pairs, raw
from support.workers.sglang_worker import SGLang

from gateway import NOT_JSON, api_of
from gateway.config import Worker
from gateway.testing import GatewayFor, Live, ScriptedWorker, entry


def is_step(exchange: RecordedExchange) -> bool:
    """Whether it is a call that samples, with a JSON object for a request."""
    api = api_of(exchange.path.partition("?")[0])
    if exchange.method != "POST" or api is None or not api.generates:
        return False
    try:
        request = msgspec.json.decode(exchange.request_body)
    except NOT_JSON:
        return False
    return exchange.path.startswith("/v1/") and isinstance(request, dict)


RECORDED = list(filter(is_step, (*load().values(), *load(OTHER_ENGINES).values())))


async def heard(live: Live, exchange: RecordedExchange) -> tuple[RawAnswer, bool]:
    """Make the call; return the response, and whether all of it came."""
    headers = pairs(exchange.request_headers)
    async with RawClient(*live.server.address) as client:
        try:
            answer = await client.ask("POST", exchange.path, headers, exchange.request_body)
        except CutShort as cut:
            return cut.answer, False
        return answer, True


async def test_recorded_engines_are_replayed_byte_for_byte(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    playing, first = Playing(), []
    async with ScriptedWorker(playing.script) as worker:
        capture = entry(CAPTURE, wire_responses=True)
        live = await gateway_for("sessions", capture, workers=[worker.url])
        for exchange in RECORDED:
            playing.pieces, playing.breaks_off = [raw(exchange)], bool(exchange.cut_short)
            first.append(await heard(live, exchange))
        recorded = await exported(live, tmp_path / "run.jsonl")
    replay = entry(REPLAY, path=str(tmp_path / "run.jsonl"))
    replaying = await gateway_for("sessions", CAPTURE, replay, workers=[])
    for exchange, (answer, whole) in zip(RECORDED, first, strict=True):
        again, ended = await heard(replaying, exchange)
        assert (again.status, again.body, ended) == (answer.status, answer.body, whole), exchange
        lines = [line for line in end_to_end(again.headers) if line[0] != b"x-gateway-replayed"]
        assert lines == end_to_end(answer.headers), exchange
    traces = await traces_of(replaying)
    assert len(traces) == len(RECORDED) > 100
    for one, other in zip(traces, recorded, strict=True):
        assert (one.verdict, one.choices) == (other.verdict, other.choices)


@pytest.mark.parametrize("stream", [False, True])
async def test_sglang_s_chats_are_replayed_byte_for_byte(
    gateway_for: GatewayFor, tmp_path: Path, stream: bool
) -> None:
    """Its streams are asked for token ids in a way of their own."""
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
    async with ScriptedWorker(SGLang().script) as worker:
        sglang = Worker(url=worker.url, probe="sglang")
        live = await gateway_for("sessions", entry(CAPTURE, wire_responses=True), workers=[sglang])
        first = await live.client.post("/v1/chat/completions", json=body)
        await exported(live, tmp_path / "run.jsonl")
    replay = entry(REPLAY, path=str(tmp_path / "run.jsonl"))
    replaying = await gateway_for("sessions", CAPTURE, replay, workers=[])
    again = await replaying.client.post("/v1/chat/completions", json=body)
    assert again.content == first.content
    assert [trace.verdict for trace in await traces_of(replaying)] == ["COMPLETE"]
