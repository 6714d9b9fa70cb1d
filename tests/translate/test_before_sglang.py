"""Messages and Responses before SGLang, which a worker plays: carried as chat, and captured."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.gateways.capturing import capturing
from support.workers.sglang_worker import IDS, LOGPROBS, PROMPT, SGLang

from gateway import config
from gateway.client import AsyncGatewayClient
from gateway.testing import GatewayFor, Live, ScriptedWorker
from gateway.wire.sse import Splitter

TRANSLATE = "gateway_plugins.translate:Translate"
APIS: dict[str, dict[str, Any]] = {
    "/v1/messages": {"max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]},
    "/v1/responses": {"input": "Hi", "store": False},
}
TEXTS = {"/v1/messages": "content_block_delta", "/v1/responses": "response.output_text.delta"}


async def text_of(live: Live, path: str, *, stream: bool) -> str:
    """Ask; return the text of the answer."""
    body = {"model": "m", "stream": stream, **APIS[path]}
    said = await live.client.post(path, json=body)
    assert said.status_code == 200, said.text
    assert not [name for name in ("sglext", "token_ids", "matched_stop") if name in said.text]
    if not stream:
        answer = said.json()
        parts = answer["content"] if path == "/v1/messages" else answer["output"][0]["content"]
        return "".join(part["text"] for part in parts)
    data = [event.data for event in Splitter(1 << 20).feed(said.content) if event.data]
    events = [msgspec.json.decode(one) for one in data]
    assert events[-1]["type"] in ("message_stop", "response.completed")
    deltas = [event["delta"] for event in events if event["type"] == TEXTS[path]]
    return "".join(delta["text"] if isinstance(delta, dict) else delta for delta in deltas)


@pytest.mark.parametrize("known", ["unknown", "probe"])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("path", APIS)
async def test_other_apis_are_captured_before_sglang(
    gateway_for: GatewayFor, tmp_path: Path, path: str, stream: bool, known: str
) -> None:
    engine = SGLang()
    async with ScriptedWorker(engine.script) as server:
        worker = config.Worker(
            url=server.url,
            apis=("chat", "completions"),
            probe="sglang" if known == "probe" else False,
        )
        live = await capturing(gateway_for, tmp_path, TRANSLATE, workers=[worker])
        assert await text_of(live, path, stream=stream) == "Hello"
        async with AsyncGatewayClient(live.url) as client:
            [trace] = await client.query_traces()
    assert (trace.verdict, trace.reasons) == ("COMPLETE", [])
    assert trace.translated_from == path.removeprefix("/v1/")
    [choice] = trace.choices
    assert (choice.prompt_token_ids, choice.token_ids) == (PROMPT, IDS)
    assert choice.logprobs == LOGPROBS
    assert len(engine.requests) == (2 if stream and known == "unknown" else 1)
