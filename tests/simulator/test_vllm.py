"""A real vLLM gives through the gateway what it gives directly.

Opt-in: `VLLM_URL=http://127.0.0.1:8000 pytest -m vllm`. Any chat model will do; nothing is asked of
the server but the OpenAI endpoints and /metrics.
"""

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import msgspec
import pytest
from support.plugins.recording_plugin import Watcher

from gateway import Call, hookimpl
from gateway.config import Config, Worker
from gateway.testing import Live, entry, live

URL = os.environ.get("VLLM_URL", "")

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(not URL, reason="VLLM_URL does not name a running vLLM"),
]

PROMPTS, CHOICES, TOKENS = 32, 8, 1800
"""Of an answer that is to be aborted: a minute of work even for a tiny model on a CPU."""

LONGEST_SILENCE = 60.0
"""Seconds: on a busy machine vLLM's API process answers nobody for a while as its engine works."""


class Injecting:
    """Asks the engine for all that a trace may need."""

    @hookimpl
    async def prepare(self, call: Call) -> None:
        await call.inject("token_ids", "logprobs", "usage")

    @hookimpl
    def observe(self, call: Call) -> object:
        return self

    def delta(self, delta: object) -> None:
        """Wants answers read."""


@pytest.fixture(params=[False, True], ids=["as it is", "injecting"])
async def gateway(request: pytest.FixtureRequest) -> AsyncIterator[Live]:
    plugins = (entry(Injecting), entry(Watcher)) if request.param else (entry(Watcher),)
    async with live(Config(workers=(Worker(url=URL),), plugins=plugins)) as running:
        yield running


@pytest.fixture
async def direct() -> AsyncIterator[httpx.AsyncClient]:
    fresh = httpx.Limits(max_keepalive_connections=0)  # vLLM closes kept ones after 5 s
    async with httpx.AsyncClient(
        base_url=URL, timeout=None, trust_env=False, limits=fresh
    ) as client:
        yield client


@pytest.fixture
async def model(direct: httpx.AsyncClient) -> str:
    name: str = (await direct.get("/v1/models")).json()["data"][0]["id"]
    return name


MESSAGES = [{"role": "user", "content": "Tell me about the harbour."}]
PROMPT = "The harbour of"
FIXED = {"temperature": 0, "seed": 1, "max_tokens": 24}
NOW = {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}

ASKED: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "chat": ("chat/completions", {"messages": MESSAGES}),
    "chat sampled": ("chat/completions", {"messages": MESSAGES, "temperature": 1, "seed": 7}),
    "chat with ids": ("chat/completions", {"messages": MESSAGES, "return_token_ids": True}),
    "chat with logprobs": (
        "chat/completions",
        {"messages": MESSAGES, "logprobs": True, "top_logprobs": 2, "return_token_ids": True},
    ),
    "chat, two choices": ("chat/completions", {"messages": MESSAGES, "n": 2, "temperature": 1}),
    "chat with a tool": (
        "chat/completions",
        {
            "messages": MESSAGES,
            "tools": [NOW],
            "tool_choice": {"type": "function", "function": {"name": "now"}},
        },
    ),
    "completion": ("completions", {"prompt": PROMPT}),
    "completion with ids": ("completions", {"prompt": PROMPT, "return_token_ids": True}),
    "completion with logprobs": ("completions", {"prompt": PROMPT, "logprobs": 2}),
    "completion of two prompts": (
        "completions",
        {"prompt": [PROMPT, "A ferry"], "n": 2, "temperature": 1},
    ),
}


@pytest.mark.parametrize("asked", ASKED)
async def test_gateway_returns_the_plain_response_of_vllm(
    gateway: Live, direct: httpx.AsyncClient, model: str, asked: str
) -> None:
    path, body = ASKED[asked]
    body = {**FIXED, "model": model, **body}
    await direct.post(f"/v1/{path}", json=body)  # so that both meet the same prefix cache
    expected = await direct.post(f"/v1/{path}", json=body, headers=SAME_ID)
    answer = await gateway.client.post(f"/v1/{path}", json=body, headers=SAME_ID)
    assert answer.status_code == expected.status_code == 200
    assert timeless(answer.json()) == close_to(timeless(expected.json()))
    assert answer.headers["content-type"] == expected.headers["content-type"]


@pytest.mark.parametrize("usage", [False, True], ids=["", "with usage"])
@pytest.mark.parametrize("asked", ASKED)
async def test_gateway_returns_the_stream_of_vllm(
    gateway: Live, direct: httpx.AsyncClient, model: str, asked: str, usage: bool
) -> None:
    path, body = ASKED[asked]
    body = {**FIXED, "model": model, "stream": True, **body}
    if usage:
        body["stream_options"] = {"include_usage": True}
    await direct.post(f"/v1/{path}", json=body)
    expected = await direct.post(f"/v1/{path}", json=body, headers=SAME_ID)
    answer = await gateway.client.post(f"/v1/{path}", json=body, headers=SAME_ID)
    assert answer.status_code == expected.status_code == 200
    assert answer.headers["content-type"] == expected.headers["content-type"]
    assert summary(answer.text) == close_to(summary(expected.text))


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/chat/completions", b'{"messages": []'),
        ("POST", "/v1/chat/completions", b'{"model": "MODEL", "messages": "hello"}'),
        ("POST", "/v1/chat/completions", b'{"model": "MODEL", "messages": [], "temperature": -1}'),
        ("POST", "/v1/chat/completions", b'{"model": "no-such-model", "messages": []}'),
        ("POST", "/v1/completions", b'{"model": "MODEL", "prompt": "x", "max_tokens": 0}'),
        ("POST", "/v1/completions", b'{"model": "MODEL", "stream": true}'),
        ("GET", "/v1/chat/completions", b""),
        ("GET", "/v1/no-such-path", b""),
    ],
)
async def test_gateway_returns_the_errors_of_vllm_unchanged(
    direct: httpx.AsyncClient, model: str, method: str, path: str, body: bytes
) -> None:
    content = body.replace(b"MODEL", model.encode())
    headers = {"content-type": "application/json", **SAME_ID}
    async with live(Config(workers=(Worker(url=URL),))) as gateway:
        answer = await gateway.client.request(method, path, content=content, headers=headers)
    expected = await direct.request(method, path, content=content, headers=headers)
    assert answer.status_code == expected.status_code >= 400
    assert answer.content == expected.content


@pytest.mark.parametrize("path", ["/version", "/tokenize"])
async def test_gateway_forwards_other_paths_of_vllm(
    gateway: Live, direct: httpx.AsyncClient, model: str, path: str
) -> None:
    method = "POST" if path == "/tokenize" else "GET"
    body = {"model": model, "prompt": PROMPT} if path == "/tokenize" else None
    expected = await direct.request(method, path, json=body)
    answer = await gateway.client.request(method, path, json=body)
    assert (answer.status_code, answer.content) == (200, expected.content)


@pytest.mark.timeout(3 * LONGEST_SILENCE)
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_vllm_stops_generating_if_the_caller_disconnects(
    gateway: Live, direct: httpx.AsyncClient, model: str, stream: bool
) -> None:
    before = await metric(direct, "generation_tokens_total")
    asking = asyncio.create_task(
        begin(
            gateway.client,
            {
                "model": model,
                "prompt": [PROMPT] * PROMPTS,
                "n": CHOICES,
                "max_tokens": TOKENS,
                "ignore_eos": True,
                "stream": stream,
            },
        )
    )
    async with asyncio.timeout(LONGEST_SILENCE):
        while not await metric(direct, "num_requests_running"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    asking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asking
    async with asyncio.timeout(LONGEST_SILENCE):
        while await metric(direct, "num_requests_running"):
            await nudge(direct, model)
    generated = await metric(direct, "generation_tokens_total") - before
    assert 0 < generated < PROMPTS * CHOICES * TOKENS
    assert (await gateway.plugin(Watcher).outcome()).caller_gone


async def begin(client: httpx.AsyncClient, body: Mapping[str, object]) -> None:
    """Ask and read on until cancelled."""
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        async for _ in answer.aiter_raw():
            pass


async def metric(direct: httpx.AsyncClient, name: str) -> float:
    text = (await direct.get("/metrics")).text
    found = re.search(rf"^vllm:{name}\{{[^}}]*\}} (\S+)$", text, re.MULTILINE)
    assert found is not None
    return float(found[1])


async def nudge(direct: httpx.AsyncClient, model: str) -> None:
    """The engine counts what runs only when it takes a step, and an abort alone is none."""
    await direct.post("/v1/completions", json={"model": model, "prompt": "x", "max_tokens": 1})


SAME_ID = {"x-request-id": "same"}
TOOL_CALL_ID = re.compile(r"chatcmpl-tool-[0-9a-f]+")


def timeless(value: Any) -> Any:
    """Without what is new in every answer: the time, and the ids of tool calls."""
    if isinstance(value, dict):
        return {key: timeless(inner) for key, inner in value.items() if key != "created"}
    if isinstance(value, list):
        return [timeless(inner) for inner in value]
    return "new" if isinstance(value, str) and TOOL_CALL_ID.fullmatch(value) else value


def close_to(value: Any) -> Any:
    """The same, but that numbers may differ in the last places: an engine batches as it likes."""
    if isinstance(value, dict):
        return {key: close_to(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [close_to(inner) for inner in value]
    return pytest.approx(value, rel=1e-2, abs=1e-2) if isinstance(value, float) else value


def summary(stream: str) -> dict[str, Any]:
    """What a stream says, wherever its events are cut: vLLM joins tokens as it likes."""
    *events, done, rest = stream.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    said: dict[str, Any] = {}
    for event in events:
        one = timeless(msgspec.json.decode(event.removeprefix("data: ")))
        for choice in one.pop("choices"):
            add(said, f"choice {choice.pop('index')}", choice)
        add(said, "top", one)
    return said


def add(said: dict[str, Any], place: str, value: Any) -> None:
    """Join `value` to what was said in its place: text and lists grow, the rest is kept."""
    if isinstance(value, dict):
        for key, inner in value.items():
            add(said, f"{place}.{key}", inner)
        said.setdefault(place, "present")
    elif isinstance(value, list):
        said[place] = [*(said.get(place) or ()), *value]
    elif isinstance(value, str) and place.endswith((".content", ".text", ".arguments")):
        said[place] = (said.get(place) or "") + value
    elif value is not None or place not in said:
        said[place] = value
