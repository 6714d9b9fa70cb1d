"""A real vLLM says the same in its own Messages as through the gateway, carried as chat.

Opt-in: `VLLM_URL=http://127.0.0.1:8000 pytest -m vllm`. The server needs `--enable-scale-out` and
`--enable-auto-tool-choice`.
"""

import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.gateways.capturing import capturing
from support.records.vllm_recordings import MORE, load
from support.workers.as_chat import events_of
from support.workers.messages_bodies import BODIES

from gateway.client import AsyncGatewayClient
from gateway.testing import GatewayFor

URL = os.environ.get("VLLM_URL", "")

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(not URL, reason="VLLM_URL does not name a running vLLM"),
]

OWN = re.compile(r'chatcmpl-(?:tool-)?[0-9a-f]+|"signature": "[0-9a-f]{32}"|, "input": \{\}')
CACHE = re.compile(r'"(?:input_tokens|cache_\w+_input_tokens)": \d+')
"""What differs between two equal calls: ids, signatures, and what a prefix cache has by then.

And the input of a tool call that was cut off: the engine leaves it out.
"""

JSON = {"content-type": "application/json"}
CHECK = {**JSON, "x-gateway-check-prompt": "1"}
MAX_TOKENS = 40

TEXTS = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}
"""The text in each kind of delta."""


def recorded() -> list[bytes]:
    found = [one for one in load(MORE).values() if one.path == "/v1/messages"]
    return [one.request_body for one in found if one.method == "POST"]


def greedy(body: bytes) -> bytes:
    """The same request, short and without chance, for the model `tiny`."""
    try:
        asked = json.loads(body)
    except ValueError:
        return body
    asked["temperature"] = 0
    if asked.get("model") not in (None, "nope"):
        asked["model"] = "tiny"
    most = asked.get("max_tokens")
    if type(most) is int and MAX_TOKENS < most < 2000 and "budget_tokens" not in str(asked):
        asked["max_tokens"] = MAX_TOKENS
    return json.dumps(asked).encode()


def flipped(body: bytes) -> bytes:
    """The same as a stream if it was none, and the other way."""
    asked = json.loads(body)
    return json.dumps({**asked, "stream": not asked.get("stream")}).encode()


def merged(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events, with deltas of the same block in one: how many there are is chance."""
    found: list[dict[str, Any]] = []
    for event in events:
        delta = event.get("delta", {})
        name = TEXTS.get(delta.get("type", ""))
        if name and found and found[-1].get("delta", {}).get("type") == delta["type"]:
            found[-1]["delta"][name] += delta[name]
        else:
            found.append(event)
    return found


def told(answer: httpx.Response) -> str:
    """What an answer says, without what differs between two equal ones."""
    if answer.text.startswith("event: "):
        value: Any = merged(events_of(answer.content))
    else:
        value = answer.json()
        value.pop("request_id", None)
    return CACHE.sub("", OWN.sub("", json.dumps(value)))


def is_known(direct: str) -> bool:
    """Whether this is a known mistake of the engine, see docs/dialects.md."""
    return "validation errors for ChatCompletionStreamResponse" in direct


@pytest.mark.timeout(1800)
async def test_vllm_says_the_same_in_messages_and_carried_as_chat(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    plugin = "gateway_plugins.translate:Translate"
    live = await capturing(gateway_for, tmp_path, plugin, "metrics", workers=[URL])
    bodies = [greedy(body) for body in recorded() + BODIES]
    bodies += [flipped(body) for body in bodies if body.startswith(b"{") and body.endswith(b"}")]
    known = Counter[bool]()
    async with httpx.AsyncClient(base_url=URL, timeout=120, headers=JSON) as engine:
        for body in bodies:
            direct = await engine.post("/v1/messages", content=body)
            carried = await live.client.post(
                "/sessions/s/v1/messages", content=body, headers=CHECK, timeout=120
            )
            assert carried.status_code == direct.status_code, body
            known[is_known(direct.text)] += 1
            if not is_known(direct.text):
                assert told(carried) == told(direct), body
    assert known[False] > 100
    assert known[True] < 5
    async with AsyncGatewayClient(live.url) as client:
        traces = await client.query_traces()
    translated = [trace for trace in traces if trace.translated_from == "messages"]
    assert len(translated) > 90
    whole = [trace for trace in translated if trace.delivery.status == 200]
    reasons = Counter(tuple(trace.reasons) for trace in whole)
    assert reasons.keys() <= {(), ("error_event",)}
    assert reasons["error_event",] == known[True]
    scraped = (await live.client.get("/metrics")).text
    assert 'gateway_prompt_checks_total{result="differs"} 0.0' in scraped
    equal = re.search(r'gateway_prompt_checks_total\{result="equal"\} (\d+)', scraped)
    assert equal is not None
    assert int(equal[1]) > 80
