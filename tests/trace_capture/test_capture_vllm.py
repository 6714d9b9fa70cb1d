"""What is recorded of a real vLLM is what it sampled.

Opt-in: `VLLM_URL=http://127.0.0.1:8000 pytest -m vllm`. The model must have a chat template, and
the server `--enable-auto-tool-choice`. `VLLM_SESSIONS=400` makes 2,000 calls in place of 100.
"""

import gc
import json
import os
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from support.callers.leaving_caller import leave
from support.callers.raw_client import RawClient, head_of
from support.callers.sampled_tokens import ASKS, Sampled, sampled, sampled_of
from support.gateways.capturing import capturing
from support.plugins.recording_plugin import until

from gateway import Trace
from gateway.client import AsyncGatewayClient
from gateway.pipeline.proxy import Proxy
from gateway.testing import GatewayFor, Live

URL = os.environ.get("VLLM_URL", "")

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(not URL, reason="VLLM_URL does not name a running vLLM"),
]

SESSIONS, TURNS = int(os.environ.get("VLLM_SESSIONS", "20")), 5
LONG = 300
"""Tokens of an answer whose caller hangs up."""

OWN = re.compile(
    rb'"created":[0-9]+|"id":"(?:chatcmpl-|call_)[^"]*"|'
    rb'"system_fingerprint":"[^"]*"|"request_id":"[^"]*"'
)
"""What is different in each of two equal responses."""

TEXT = re.compile(rb'"(content|arguments)":"((?:[^"\\]|\\.)*)"')
LAST = re.compile(rb'"delta":\{.*\}(,"logprobs":(?:null|\{[^}]*\}),"finish_reason":")')
"""The delta of an event with a finish reason, which has a token or none."""

MORE = re.compile(rb'(?:,\{"index":0,"function":\{"arguments":""\}\})+')
"""Further tokens of a tool's arguments in one event."""

TOOLS = ("tools", "tool_choice")

CHAT = "/v1/chat/completions"
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"town": {"type": "string", "enum": ["Bergen", "Ghent"]}},
            "required": ["town"],
        },
    },
}
NAMED = {"type": "function", "function": {"name": "weather"}}


class Turn(msgspec.Struct):
    """A call and what the engine sampled for it when it was asked directly.

    `prompt` is what /tokenize says; `aborted`: its caller hung up.
    """

    request: dict[str, Any]
    direct: dict[int, Sampled]
    prompt: list[int]
    aborted: bool


class Figures(msgspec.Struct):
    traces: int = 0
    complete: int = 0
    incomplete: dict[str, int] = {}
    tokens: int = 0
    partial: int = 0
    branches: int = 0
    same_bytes: int = 0
    largest_difference: float = 0.0


class Talks:
    """Agents' sessions, one call at a time: alone, an engine samples alike for the same seed."""

    def __init__(self, running: Live, engine: httpx.AsyncClient, model: str) -> None:
        self.turns: dict[str, list[Turn]] = {}
        self.same_bytes = 0
        self._shapes: set[bytes] = set()
        self._live = running
        self._engine = engine
        self._model = model

    async def run(self, number: int) -> None:
        messages: list[dict[str, Any]] = [{"role": "system", "content": f"You are guide {number}."}]
        turns = self.turns[f"talk-{number}"] = []
        for place in range(TURNS):
            messages.append({"role": "user", "content": f"And harbour number {place}?"})
            turn = await self._prepared(self._request(number, place, messages), number, place)
            turns.append(turn)
            if turn.aborted:
                await self._hang_up(f"talk-{number}", turn.request)
                continue
            said = await self._ask(f"talk-{number}", turn.request)
            messages.append(said)
            messages += [
                {"role": "tool", "tool_call_id": called["id"], "content": "rain"}
                for called in said.get("tool_calls") or ()
            ]

    def _request(self, number: int, place: int, messages: list[Any]) -> dict[str, Any]:
        request: dict[str, Any] = {
            "model": self._model,
            "messages": list(messages),
            "max_tokens": 20 + place,
            "temperature": 0.8,
            "seed": 100 * number + place,
            "stream": (number + place) % 2 == 0,
        }
        if number % 3 == 0:
            request["tools"] = [TOOL]
            if place % 2:
                request |= {"tool_choice": NAMED, "max_tokens": 100}
        if number % 4 == 1:
            request["n"] = 2
        if is_aborted(number, place):  # without a tool, whose grammar may end the answer early
            request = {name: value for name, value in request.items() if name not in TOOLS}
            request |= {"max_tokens": LONG, "ignore_eos": True}
        return request

    async def _prepared(self, request: dict[str, Any], number: int, place: int) -> Turn:
        telling = {**request, **ASKS}
        await self._engine.post(CHAT, json=telling)  # so that all meet the same prefix cache
        answer = await self._engine.post(CHAT, json=telling)
        assert answer.status_code == 200, answer.text
        asked = {key: request[key] for key in ("model", "messages", "tools") if key in request}
        tokens = (await self._engine.post("/tokenize", json=asked)).json()["tokens"]
        direct = sampled(answer.content, stream=request["stream"])
        return Turn(request, direct, tokens, is_aborted(number, place))

    async def _ask(self, session: str, request: dict[str, Any]) -> dict[str, Any]:
        """The message that an agent goes on from."""
        answer = await self._live.client.post(f"/sessions/{session}{CHAT}", json=request)
        assert answer.status_code == 200, answer.text
        await self._compare_bytes(answer.content, request)
        async with AsyncGatewayClient(self._live.url) as client:
            trace = (await client.get_session_traces(session))[-1]
        assert trace.call_id == answer.headers["x-request-id"]
        message = trace.response_message
        wanted = ("role", "content", "tool_calls")
        return {name: message[name] for name in wanted if message.get(name)}

    async def _compare_bytes(self, content: bytes, request: dict[str, Any]) -> None:
        """The caller gets the bytes of a direct call, but for ids and times."""
        direct = await self._engine.post(CHAT, json=request)
        shapes, texts = joined(by_choice(content))
        usual, wanted = joined(by_choice(direct.content))
        self._shapes |= usual
        assert texts == wanted, (content, direct.content)
        assert shapes <= self._shapes, (shapes, self._shapes)
        self.same_bytes += by_choice(content) == by_choice(direct.content)

    async def _hang_up(self, session: str, request: dict[str, Any]) -> None:
        """Ask and leave. On a busy machine the whole answer may be there before that."""
        proxy, worker = self._live.gateway.proxy, self._live.gateway.workers.all[0]
        before = proxy.calls
        body = json.dumps(request).encode()
        lines = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        async with RawClient(*self._live.server.address) as client:
            await client.send(head_of("POST", f"/sessions/{session}{CHAT}", lines) + body)
            if request["stream"]:
                for _ in range(5):
                    await client.reader.readuntil(b"\n\n")
            else:
                await until(lambda: worker.in_flight == 1 or _is_over(proxy, before))
            leave(client, reset=True)
        await until(lambda: not proxy.in_flight)


def _is_over(proxy: Proxy, before: int) -> bool:
    return proxy.calls > before and not proxy.in_flight


def by_choice(content: bytes) -> list[bytes]:
    """The events of each choice in their order: one may overtake the end of another choice."""
    events = OWN.sub(b"", content).split(b"\n\n")
    found = [re.search(rb'"choices":\[\{"index":([0-9]+)', event) for event in events]
    places = [int(one[1]) if one else len(events) for one in found]
    return [event for _, event in sorted(zip(places, events, strict=True), key=lambda one: one[0])]


def joined(events: list[bytes]) -> tuple[set[bytes], dict[bytes, bytes]]:
    """The events without their texts, those alike once, and the whole text of each choice.

    A busy engine puts two tokens into one event, or a token into the last, and not always the same.
    """
    shapes: set[bytes] = set()
    texts: dict[bytes, bytes] = {}
    for event in events:
        bare = MORE.sub(b"", TEXT.sub(rb'"\1":""', event))
        shapes.add(LAST.sub(rb'"delta":{}\1', bare))
        place = re.search(rb'"choices":\[\{"index":([0-9]+)', event)
        said = b"".join(one[2] for one in TEXT.finditer(event))
        choice = place[1] if place else b""
        texts[choice] = texts.get(choice, b"") + said
    return shapes, texts


def is_aborted(number: int, place: int) -> bool:
    return number % 5 == 4 and place in (2, 3)


def check(trace: Trace, turn: Turn, figures: Figures) -> None:
    figures.traces += 1
    assert trace.raw_request == turn.request
    recorded = sampled_of(trace)
    whole = not turn.aborted or trace.verdict == "COMPLETE"
    if whole:
        assert (trace.verdict, trace.reasons) == ("COMPLETE", [])
        assert recorded.keys() == turn.direct.keys()
    else:
        assert trace.reasons[0] == "caller_gone"
        figures.incomplete["caller_gone"] = figures.incomplete.get("caller_gone", 0) + 1
    figures.complete += trace.verdict == "COMPLETE"
    for index, one in recorded.items():
        compare(one, turn.direct[index], turn.prompt, figures, whole=whole)


def compare(
    one: Sampled, direct: Sampled, prompt: list[int], figures: Figures, *, whole: bool
) -> None:
    count = len(one.token_ids)
    assert one.prompt == direct.prompt == prompt
    assert one.token_ids == direct.token_ids[: count if not whole else None]
    assert len(one.logprobs) == count
    for mine, theirs in zip(one.logprobs, direct.logprobs, strict=whole):
        assert mine is not None
        assert theirs is not None
        assert mine == pytest.approx(theirs, rel=1e-2, abs=1e-2)
        figures.largest_difference = max(figures.largest_difference, abs(mine - theirs))
    if whole:
        assert (one.content, one.finish_reason) == (direct.content, direct.finish_reason)
        figures.tokens += count
    else:
        figures.partial += count


async def check_trajectories(
    client: AsyncGatewayClient, session: str, traces: list[Trace], figures: Figures
) -> None:
    """Over all branches each sampled token is there once."""
    found = await client.trajectories(session)
    figures.branches += len(found.trajectories)
    masked = Counter(
        (token, logprob)
        for branch in found.trajectories
        for token, logprob, mask in zip(
            branch.token_ids, branch.logprobs, branch.loss_mask, strict=True
        )
        if mask
    )
    sampled_tokens = Counter(
        (token, logprob)
        for trace in traces
        if trace.trace_id not in found.left_out
        for choice in trace.choices
        for token, logprob in zip(choice.token_ids, choice.logprobs, strict=True)
    )
    assert masked == sampled_tokens
    assert found.left_out.keys() <= {t.trace_id for t in traces if t.verdict == "INCOMPLETE"}


@pytest.fixture
async def engine() -> AsyncIterator[httpx.AsyncClient]:
    fresh = httpx.Limits(max_keepalive_connections=0)  # vLLM closes kept ones after 5 s
    async with httpx.AsyncClient(
        base_url=URL, timeout=None, trust_env=False, limits=fresh
    ) as client:
        yield client


@pytest.mark.timeout(60 * SESSIONS)
async def test_capture_records_vllm_sessions_as_sampled(
    gateway_for: GatewayFor,
    engine: httpx.AsyncClient,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = (await engine.get("/v1/models")).json()["data"][0]["id"]
    running = await capturing(gateway_for, tmp_path, workers=[URL])
    talks, figures = Talks(running, engine, model), Figures()
    gc.freeze()  # a long collection would let a call end before its caller can leave
    for number in range(SESSIONS):
        await talks.run(number)
    async with AsyncGatewayClient(running.url) as client:
        for session, turns in talks.turns.items():
            traces = await client.get_session_traces(session)
            for trace, turn in zip(traces, turns, strict=True):
                check(trace, turn, figures)
            await check_trajectories(client, session, traces, figures)
    figures.same_bytes = talks.same_bytes
    with capsys.disabled():
        sys.stdout.write(f"\n{figures}\n")
    assert figures.traces == SESSIONS * TURNS
    whole = sum(not turn.aborted for turns in talks.turns.values() for turn in turns)
    assert figures.same_bytes > 0.8 * whole  # of the others, `joined` is the same


COMPLETIONS: Mapping[str, Mapping[str, object]] = {
    "text": {"prompt": "The harbour of"},
    "ids": {"prompt": [5, 6, 7, 8]},
    "texts": {"prompt": ["The harbour of", "A ferry"], "n": 2},
}


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("name", COMPLETIONS)
async def test_capture_records_vllm_completions_as_sampled(
    gateway_for: GatewayFor, engine: httpx.AsyncClient, tmp_path: Path, name: str, stream: bool
) -> None:
    model = (await engine.get("/v1/models")).json()["data"][0]["id"]
    running = await capturing(gateway_for, tmp_path, workers=[URL])
    body = {"model": model, **COMPLETIONS[name], "max_tokens": 16, "seed": 1}
    asks = {"logprobs": 0, "return_token_ids": True}
    await engine.post("/v1/completions", json={**body, **asks})
    said = (await engine.post("/v1/completions", json={**body, **asks})).json()
    answer = await running.client.post("/v1/completions", json={**body, "stream": stream})
    assert answer.status_code == 200
    async with AsyncGatewayClient(running.url) as client:
        [trace] = await client.query_traces()
    assert (trace.verdict, trace.reasons) == ("COMPLETE", [])
    for one, expected in zip(trace.choices, said["choices"], strict=True):
        assert one.prompt_token_ids == expected["prompt_token_ids"]
        assert one.token_ids == expected["token_ids"]
        expected_logprobs = expected["logprobs"]["token_logprobs"]
        assert one.logprobs == pytest.approx(expected_logprobs, rel=1e-2, abs=1e-2)
        assert (one.text, one.finish_reason) == (expected["text"], expected["finish_reason"])


async def test_trajectory_joins_vllm_turns_sent_as_token_ids(
    gateway_for: GatewayFor, engine: httpx.AsyncClient, tmp_path: Path
) -> None:
    model = (await engine.get("/v1/models")).json()["data"][0]["id"]
    running = await capturing(gateway_for, tmp_path, workers=[URL])
    prompt, sampled_ids, mask = [5, 6, 7], [], [0] * 3
    async with AsyncGatewayClient(running.url) as client:
        for turn in range(TURNS):
            body = {"model": model, "prompt": prompt, "max_tokens": 12, "seed": turn}
            path = "/sessions/s/v1/completions"
            await running.client.post(path, json={**body, "stream": turn % 2 == 0})
            trace = (await client.get_session_traces("s"))[-1]
            sampled_ids += trace.completion_token_ids
            mask += [1] * len(trace.completion_token_ids) + [0, 0]
            prompt = [*prompt, *trace.completion_token_ids, 8, 9]
        found = await client.trajectories("s")
    [branch] = found.trajectories
    assert branch.verdict == "COMPLETE"
    assert branch.token_ids == prompt[:-2]
    assert branch.loss_mask == mask[:-2]
    pairs = zip(branch.token_ids, branch.loss_mask, strict=True)
    assert [token for token, masked in pairs if masked] == sampled_ids
