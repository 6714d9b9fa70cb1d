"""Prompts that the package renderers makes before a real vLLM are those that are made without it.

Opt-in: `VLLM_HOME=DIR TITO_TURNS=1000 pytest -m vllm tests/trace_capture/tito -n 0`.
`TITO_QWEN3=FOLDER` is a model with the tokenizer and the template of Qwen3, in place of the tiny
one with its marks.
"""

import json
import os
import random
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.gateways.capturing import CAPTURE
from support.tito.agents import reworded, traces_of, with_tito
from trace_capture.tapped.engine import vllm
from trace_capture.tito.test_tito_vllm import HOME, PER_SESSION, TOOL, TURNS, fields

from gateway import Trace
from gateway.config import StorageSettings
from gateway.testing import GatewayFor, Live, entry

QWEN3 = os.environ.get("TITO_QWEN3")

pytest.importorskip("renderers", reason="the package renderers is not installed")
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(not HOME, reason="VLLM_HOME does not name a folder with a vLLM"),
    pytest.mark.timeout(900 + 6 * TURNS),
]

TEMPLATE = """\
{%- for message in messages %}
{%- set role = "user" if message.role == "tool" else message.role %}
{{- "<|im_start|>" + role + "\\n" }}
{%- if message.role == "tool" %}
{{- "<tool_response>\\n" + message.content + "\\n</tool_response>" }}
{%- else %}
{{- message.content or "" }}
{%- endif %}
{%- for call in message.tool_calls or [] %}
{{- "\\n<tool_call>\\n" + call.function | tojson + "\\n</tool_call>" }}
{%- endfor %}
{{- "<|im_end|>\\n" }}
{%- endfor %}
{%- if add_generation_prompt %}{{- "<|im_start|>assistant\\n" }}{%- endif %}"""


def qwen3_model(model: Path, folder: Path) -> Path:
    """Return a copy of the tiny model with all marks of Qwen3; two words make room for them."""
    copy = folder / "qwen3"
    shutil.copytree(model, copy)
    file = copy / "tokenizer.json"
    found = json.loads(file.read_text(encoding="utf-8"))
    vocab, merges, added = found["model"]["vocab"], found["model"]["merges"], found["added_tokens"]
    del merges[-2:]
    for word, mark in zip(sorted(vocab, key=vocab.get)[-2:], ("<think>", "</think>"), strict=True):
        added.append({**added[-1], "id": vocab.pop(word), "content": mark})
    for token in added[3:]:
        token["special"] = False
    file.write_text(json.dumps(found), encoding="utf-8")
    (copy / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    return copy


async def talk(live: Live, found: Counter[str]) -> list[Trace]:
    """Have random conversations; return all traces."""
    traces = []
    for number in range(TURNS // PER_SESSION):
        chance = random.Random(number)
        tools: dict[str, Any] = {"tools": [TOOL]} if number % 2 else {}
        agent = await with_tito(live, f"s{number}", model="tiny", allowed_token_ids=None, **tools)
        for turn in range(PER_SESSION):
            forced = tools and chance.random() < 0.5
            choice = {"tool_choice": "required"} if forced else {}
            await agent.work(f"Turn {turn}.", **{**fields(chance), **choice})
        told = await traces_of(live, f"s{number}")
        found["turns"] += len(told)
        found["reworded"] += reworded(told)
        for one in told:
            facts: dict[str, Any] = one.metadata["tito"]
            found[facts.get("rendered_by", facts["prompt"])] += 1
            found["forked"] += "forked" in facts
        traces += told
    return traces


async def test_the_package_makes_the_prompts_that_the_engine_makes(
    gateway_for: GatewayFor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with vllm(Path(HOME), tmp_path) as engine:
        model = Path(QWEN3) if QWEN3 else qwen3_model(Path(HOME, "model"), tmp_path)
        await engine.start(model, "--reasoning-parser", "qwen3")
        told, prompts = [], []
        option = {"tiny": {"tokenizer": str(model), "renderer": "qwen3"}}
        for name, options in (("with", {"tito_renderers": option}), ("without", {})):
            live = await gateway_for(
                "sessions",
                entry(CAPTURE, **options),
                workers=[engine.url],
                storage=StorageSettings(path=str(tmp_path / f"{name}.db")),
            )
            found: Counter[str] = Counter()
            prompts.append([one.prompt_token_ids for one in await talk(live, found)])
            told.append(found)
    with capsys.disabled():
        sys.stdout.write(f"\n{[dict(one) for one in told]}\n")
    assert prompts[0] == prompts[1]
    assert not told[0]["reworded"] + told[0]["forked"]
    # A random model also ends turns within reasoning, where the engine and the package differ.
    assert told[0]["renderers"] > 0.5 * told[0]["turns"]
    assert told[1]["renderers"] == 0
