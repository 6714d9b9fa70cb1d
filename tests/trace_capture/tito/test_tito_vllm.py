"""Sampled ids are in the next prompt of a real vLLM, as a tap before it sees the prompts.

Opt-in: `VLLM_HOME=DIR TITO_TURNS=1000 pytest -m vllm tests/trace_capture/tito -n 0`.
"""

import json
import os
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from accounting.tap import Served, Tap
from support.gateways.capturing import capturing
from support.tito.agents import reworded, traces_of, with_tito
from support.tito.answers import events, normal, said
from trace_capture.tapped.engine import thinking_model, vllm

from gateway import Trace
from gateway.testing import GatewayFor, Live

HOME = os.environ.get("VLLM_HOME", "")
TURNS = int(os.environ.get("TITO_TURNS", "100"))
PER_SESSION = 10

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(not HOME, reason="VLLM_HOME does not name a folder with a vLLM"),
    pytest.mark.timeout(900 + 3 * TURNS),
]

TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "parameters": {"type": "object", "properties": {"at": {"type": "string"}}},
    },
}


def fields(chance: random.Random) -> dict[str, Any]:
    asked: dict[str, Any] = {"max_tokens": chance.choice([3, 12, 24])}
    asked |= {"seed": chance.getrandbits(30), "stream": chance.random() < 0.5}
    if chance.random() < 0.3:
        asked["stop"] = [chance.choice("aeiou")]
    if chance.random() < 0.2:  # the model ends a turn by itself too rarely
        asked |= {"logit_bias": {"2": 8}, "max_tokens": 60}
    return asked


def ids_said(page: Served) -> list[int]:
    """Return the sampled ids in a response of generate."""
    text = bytes(page.body).decode()
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: {")]
    answers = [json.loads(line) for line in lines] if lines else [json.loads(text)]
    return [i for one in answers for choice in one["choices"] for i in choice["token_ids"]]


async def test_no_sampled_token_is_reworded_before_vllm(
    gateway_for: GatewayFor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found: Counter[str] = Counter()
    async with vllm(Path(HOME), tmp_path) as engine:
        await engine.start(Path(HOME, "model"))
        tap = Tap("engine", engine.port, keeps=True)
        await tap.start()
        try:
            live = await capturing(gateway_for, tmp_path, workers=[tap.url])
            for number in range(TURNS // PER_SESSION):
                chance = random.Random(number)
                tools = {"tools": [TOOL]} if number % 2 else {}
                kept: dict[str, Any] = {"model": "tiny", "allowed_token_ids": None, **tools}
                agent = await with_tito(live, f"s{number}", **kept)
                without = await with_tito(live, f"w{number}", "off", **kept)
                for turn in range(PER_SESSION):
                    asked = fields(chance)
                    await agent.work(f"Turn {turn}.", **asked)
                    await without.work(f"Turn {turn}.", **asked)
                found["without"] += reworded(await traces_of(live, f"w{number}"))
                _check(await traces_of(live, f"s{number}"), tap, found)
        finally:
            tap.kill()
    with capsys.disabled():
        sys.stdout.write(f"\n{dict(found)}\n")
    assert found["turns"] >= TURNS
    assert not found["reworded"] + found["forked"]
    assert found["without"] > 0


def _check(traces: list[Trace], tap: Tap, found: Counter[str]) -> None:
    pages = {page.call_id: page for page in tap.served if page.path.endswith("/generate")}
    for trace in traces:
        page = pages[trace.call_id]
        assert trace.verdict == "COMPLETE", trace.reasons
        assert json.loads(bytes(page.asked))["token_ids"] == trace.prompt_token_ids
        assert ids_said(page) == trace.completion_token_ids
        found[f"ended by {trace.finish_reason}"] += 1
        found["forked"] += "forked" in trace.metadata["tito"]
        found["tokens"] += len(trace.completion_token_ids)
    found["turns"] += len(traces)
    found["reworded"] += reworded(traces)


ODD = {"3": 4, "4": 4, "5": 4, "6": 4}
"""Marks of tools and thoughts, which a random model writes in any order."""

TRIES = 6
"""A stream of chat loses text if the engine tells of two tokens in one event; then it is asked
again."""

NAMED = {"type": "function", "function": {"name": "look"}}


def asked_of(number: int) -> dict[str, Any]:
    """Return a random request; its stop strings are in no mark."""
    chance = random.Random(number)
    messages = [{"role": "user", "content": f"Hello {number}"}]
    asked = {"model": "tiny", "messages": messages, **fields(chance), "logit_bias": ODD}
    asked["return_token_ids"] = chance.random() < 0.5
    if "stop" in asked:
        asked["stop"] = [chance.choice("eusrd")]
        asked["include_stop_str_in_output"] = chance.random() < 0.3
    if chance.random() < 0.5:
        asked["tools"] = [TOOL]
        asked["tool_choice"] = chance.choice(["auto", "auto", "none", "required", NAMED])
    if chance.random() < 0.3:
        asked |= {"logprobs": True, "top_logprobs": chance.choice([0, 2])}
    if chance.random() < 0.2:
        asked["n"] = 2
    if asked["stream"] and chance.random() < 0.5:
        asked["stream_options"] = {"include_usage": True}
    return asked


async def answer_of(live: Live, session: str, asked: dict[str, Any]) -> Any:
    answer = await live.client.post(f"/sessions/{session}/v1/chat/completions", json=asked)
    assert answer.status_code == 200, answer.text
    if not asked["stream"]:
        return normal(answer.json()["choices"])
    found = said(events(answer))
    for usage in found["usage"]:  # generate does not count these
        usage.pop("completion_tokens_details", None)
        usage.get("prompt_tokens_details", {}).pop("created_cache_tokens", None)
    return found


def same(ours: Any, theirs: Any) -> bool:
    """Whether two answers are the same; a stream of chat leaves out a call that is not whole."""
    if isinstance(ours, list) or set(ours) != set(theirs):
        return bool(ours == theirs)
    kept = {name: {**one} if name != "usage" else one for name, one in ours.items()}
    for name, one in kept.items():
        more = one["content"].removeprefix(theirs[name]["content"]) if name != "usage" else ""
        if more.startswith("<") and not one["calls"]:
            one["content"] = theirs[name]["content"]
    return bool(kept == theirs)


@pytest.mark.parametrize(
    ("parser", "hidden"),
    [(None, True), ("deepseek_r1", False), ("qwen3", False)],
    ids=["no parser of reasoning", "deepseek_r1", "qwen3"],
)
async def test_answers_of_vllm_are_those_of_chat(
    gateway_for: GatewayFor, tmp_path: Path, parser: str | None, hidden: bool
) -> None:
    different = []
    async with vllm(Path(HOME), tmp_path) as engine:
        model = thinking_model(Path(HOME, "model"), tmp_path, hidden=hidden)
        await engine.start(model, *(("--reasoning-parser", parser) if parser else ()))
        live = await capturing(gateway_for, tmp_path, workers=[engine.url])
        await with_tito(live, "ours")
        for number in range(TURNS):
            asked = asked_of(number)
            ours, theirs = [], []
            for _ in range(TRIES):
                ours.append(await answer_of(live, "ours", asked))
                theirs.append(await answer_of(live, "theirs", asked))
                if any(same(ours[-1], one) for one in theirs):
                    break
            else:
                different.append((asked, ours[-1], theirs[-1]))
    (tmp_path / "different.json").write_text(json.dumps(different, indent=1), encoding="utf-8")
    assert not different, f"{len(different)} of {TURNS}, all in {tmp_path}/different.json"
