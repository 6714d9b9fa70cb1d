"""Messages carried as chat: streamed live, captured with their tokens, ended after the commit."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from support.gateways.capturing import capturing

from gateway import Trace
from gateway.client import AsyncGatewayClient
from gateway.testing import GatewayFor, Live, entry

TRANSLATE = "gateway_plugins.translate:Translate"

pytestmark = pytest.mark.usefixtures("simulator")


async def only(running: Live) -> Trace:
    async with AsyncGatewayClient(running.url) as client:
        [trace] = await client.query_traces()
    return trace


def asked(**fields: object) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Hello"}]
    return {"model": "sim", "max_tokens": 5, "messages": messages, **fields}


def events_of(answer: httpx.Response) -> list[str]:
    return [line[7:] for line in answer.text.splitlines() if line.startswith("event: ")]


@pytest.mark.parametrize(("kind", "missing"), [("create", False), ("continue", True)])
async def test_trace_of_a_thread_that_passed_through_says_that_history_is_missing(
    gateway_for: GatewayFor, tmp_path: Path, kind: str, missing: bool
) -> None:
    live = await capturing(gateway_for, tmp_path, entry(TRANSLATE, messages="never"))
    body = asked(thread={"type": kind, "previous_message_id": "msg_1"})
    answer = await live.client.post("/sessions/s/v1/messages", json=body)
    assert answer.status_code == 200
    reasons = (await only(live)).reasons
    assert ("history_missing" in reasons, "token_ids_missing" in reasons) == (missing, True)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_a_message_of_a_session_is_captured_complete(
    gateway_for: GatewayFor, tmp_path: Path, stream: bool
) -> None:
    live = await capturing(gateway_for, tmp_path, TRANSLATE)
    answer = await live.client.post("/sessions/s/v1/messages", json=asked(stream=stream))
    assert answer.status_code == 200, answer.text
    assert "token_ids" not in answer.text
    assert "logprobs" not in answer.text
    trace = await only(live)
    assert (trace.verdict, trace.reasons) == ("COMPLETE", [])
    assert (trace.dialect, trace.translated_from) == ("chat", "messages")
    assert len(trace.completion_token_ids) == 5
    if stream:
        assert events_of(answer)[:2] == ["message_start", "content_block_start"]
        assert events_of(answer)[-2:] == ["message_delta", "message_stop"]
    else:
        assert answer.json()["content"][0]["text"] == trace.response_message["content"]
