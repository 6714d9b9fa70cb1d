"""Messages before workers of other kinds: what they are asked, and what is known of them."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from gateway_plugins.translate import Translate
from support.gateways.capturing import capturing
from support.paths import DOCS
from support.workers.by_path import ByPath, chat_answer, said

from gateway import Call, Principal, Trace, hookimpl
from gateway.client import AsyncGatewayClient
from gateway.config import Worker
from gateway.testing import GatewayFor, Live, ScriptedWorker, entry

TRANSLATE = "gateway_plugins.translate:Translate"
CHAT = "/v1/chat/completions"
RENDER, MESSAGES_RENDER = f"{CHAT}/render", "/v1/messages/render"
CHECK = {"x-gateway-check-prompt": "1"}
NATIVE = {"id": "m", "type": "message", "role": "assistant", "content": []}
MIDDLE = [
    {"role": "user", "content": "Hello"},
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Go on"},
]


def asked(**fields: object) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Hello"}]
    return {"model": "sim", "max_tokens": 5, "messages": messages, **fields}


async def ask(live: Live, path: str = "/v1/messages", **fields: Any) -> httpx.Response:
    headers = fields.pop("headers", None)
    return await live.client.post(path, json=asked(**fields), headers=headers)


async def only(running: Live) -> Trace:
    async with AsyncGatewayClient(running.url) as client:
        [trace] = await client.query_traces()
    return trace


async def test_worker_that_speaks_only_chat_serves_messages(gateway_for: GatewayFor) -> None:
    engine = ByPath({CHAT: said(chat_answer())})
    async with ScriptedWorker(engine.script) as worker:
        live = await gateway_for(TRANSLATE, workers=[Worker(url=worker.url, apis=("chat",))])
        answer = await ask(live, top_k=3, system="S", thinking={"type": "disabled"})
    assert answer.json() == {
        "id": "chatcmpl-1",
        "type": "message",
        "role": "assistant",
        "content": [{"type": "text", "text": "Hi"}],
        "model": "sim",
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 3, "output_tokens": 1},
    }
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "Hello"}]
    fields = {"model": "sim", "messages": messages, "max_completion_tokens": 5}
    assert engine.bodies[CHAT] == [fields], "only what OpenAI's API has"


async def test_worker_that_speaks_only_chat_may_take_extensions(gateway_for: GatewayFor) -> None:
    engine = ByPath({CHAT: said(chat_answer())})
    async with ScriptedWorker(engine.script) as worker:
        plugin = entry(TRANSLATE, extensions=True)
        live = await gateway_for(plugin, workers=[Worker(url=worker.url, apis=("chat",))])
        await ask(live, top_k=3)
    assert engine.bodies[CHAT][0]["top_k"] == 3


async def test_call_goes_only_to_workers_that_speak_its_api(gateway_for: GatewayFor) -> None:
    native = ByPath({"/v1/messages": said(NATIVE), CHAT: said(chat_answer())})
    other = ByPath({CHAT: said(chat_answer())})
    async with ScriptedWorker(native.script) as one, ScriptedWorker(other.script) as two:
        workers = [Worker(url=two.url, apis=("chat",)), Worker(url=one.url)]
        live = await gateway_for("sessions", TRANSLATE, workers=workers)
        for _ in range(3):
            assert (await ask(live)).json() == NATIVE
        for _ in range(4):
            assert (await ask(live, "/sessions/s/v1/messages")).json()["id"] == "chatcmpl-1"
    assert len(native.bodies["/v1/messages"]) == 3
    assert {len(native.bodies[CHAT]), len(other.bodies[CHAT])} == {2}


@pytest.mark.parametrize(
    ("tokenized", "roles"),
    [
        (said({"count": 9}), ["user", "system", "user"]),
        (
            said({"error": {"message": "System message first"}}, "400 Bad"),
            ["system", "user", "user"],
        ),
    ],
    ids=["in place", "merged"],
)
async def test_template_decides_where_a_system_message_of_the_middle_goes(
    gateway_for: GatewayFor, tokenized: bytes, roles: list[str]
) -> None:
    engine = ByPath({CHAT: said(chat_answer()), "/tokenize": tokenized})
    async with ScriptedWorker(engine.script) as worker:
        live = await gateway_for("sessions", TRANSLATE, workers=[worker.url])
        for _ in range(2):
            await ask(live, "/sessions/s/v1/messages", messages=MIDDLE)
    made = [[message["role"] for message in body["messages"]] for body in engine.bodies[CHAT]]
    assert made == [roles, roles]
    assert len(engine.bodies["/tokenize"]) == 1, "it is asked once"


@pytest.mark.parametrize("same", [True, False], ids=["ignores none", "knows none"])
async def test_effort_of_thinking_that_is_off_is_found_by_rendering(
    gateway_for: GatewayFor, same: bool
) -> None:
    engine = ByPath({CHAT: said(chat_answer())})
    engine.answers[RENDER] = said({"token_ids": [1]}) if same else said({}, "400 Bad Request")
    async with ScriptedWorker(engine.script) as worker:
        live = await gateway_for("sessions", TRANSLATE, workers=[worker.url])
        await ask(live, "/sessions/s/v1/messages", thinking={"type": "disabled"})
    assert engine.bodies[CHAT][0]["reasoning_effort"] == "low"


async def test_request_without_an_exact_chat_passes_and_its_trace_says_so(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    engine = ByPath({"/v1/messages": said(NATIVE), CHAT: said(chat_answer())})
    async with ScriptedWorker(engine.script) as worker:
        live = await capturing(gateway_for, tmp_path, TRANSLATE, workers=[worker.url])
        answer = await ask(live, "/sessions/s/v1/messages", messages=MIDDLE)
        assert answer.json() == NATIVE
        trace = await only(live)
    assert engine.bodies["/v1/messages"] == [asked(messages=MIDDLE)]
    assert (trace.verdict, trace.translated_from) == ("INCOMPLETE", None)
    assert "not_translated" in trace.reasons
    assert "system message in the middle" in trace.metadata["not_translated"]


@pytest.mark.parametrize(
    ("theirs", "ours", "reasons"),
    [([1, 2, 3], [1, 2, 3], []), ([1, 7, 3], [1, 2, 3], ["prompt_differs"]), (None, [1], [])],
    ids=["equal", "differs", "unanswered"],
)
async def test_prompt_is_checked_on_demand_and_a_difference_is_a_verdict(
    gateway_for: GatewayFor,
    tmp_path: Path,
    theirs: list[int] | None,
    ours: list[int],
    reasons: list[str],
) -> None:
    engine = ByPath({CHAT: said(chat_answer()), RENDER: said({"token_ids": ours})})
    if theirs is not None:
        engine.answers[MESSAGES_RENDER] = said({"token_ids": theirs})
    async with ScriptedWorker(engine.script) as worker:
        live = await capturing(gateway_for, tmp_path, TRANSLATE, "metrics", workers=[worker.url])
        answer = await ask(live, "/sessions/s/v1/messages", headers=CHECK)
        assert answer.status_code == 200
        trace = await only(live)
        told = (await live.client.get("/metrics")).text
    assert trace.reasons == reasons
    if reasons:
        assert "token 1 is the first that differs" in trace.metadata["prompt_differs"]
    found = "unanswered" if theirs is None else "differs" if reasons else "equal"
    assert f'gateway_prompt_checks_total{{result="{found}"}} 1.0' in told
    assert engine.bodies[MESSAGES_RENDER] == [asked()]
    assert engine.bodies[RENDER][0]["messages"] == asked()["messages"]


async def test_share_of_the_prompts_is_checked(gateway_for: GatewayFor) -> None:
    engine = ByPath({CHAT: said(chat_answer())})
    async with ScriptedWorker(engine.script) as worker:
        plugin = entry(TRANSLATE, check_ratio=1.0)
        live = await gateway_for("sessions", plugin, workers=[worker.url])
        await ask(live, "/sessions/s/v1/messages")
    assert len(engine.bodies[RENDER]) == 1


async def test_tokens_are_counted_before_a_worker_that_speaks_only_chat(
    gateway_for: GatewayFor,
) -> None:
    engine = ByPath({"/tokenize": said({"count": 42, "tokens": []})})
    async with ScriptedWorker(engine.script) as worker:
        live = await gateway_for(TRANSLATE, workers=[Worker(url=worker.url, apis=("chat",))])
        body = {"model": "sim", "messages": asked()["messages"], "system": "S"}
        counted = await live.client.post("/v1/messages/count_tokens", json=body)
        del engine.answers["/tokenize"]
        refused = await live.client.post("/v1/messages/count_tokens", json=body)
    assert counted.json() == {"input_tokens": 42}
    assert [one["role"] for one in engine.bodies["/tokenize"][0]["messages"]] == ["system", "user"]
    assert refused.status_code == 404
    assert refused.json()["error"]["type"] == "not_found_error"


async def test_tokens_are_counted_by_a_worker_that_speaks_messages(gateway_for: GatewayFor) -> None:
    path = "/v1/messages/count_tokens"
    engine = ByPath({path: said({"input_tokens": 7})})
    async with ScriptedWorker(engine.script) as worker:
        live = await gateway_for("sessions", TRANSLATE, workers=[worker.url])
        counted = await live.client.post(f"/sessions/s{path}", json=asked())
    assert counted.json() == {"input_tokens": 7}
    assert engine.bodies[path] == [asked()]


class Labelled:
    """Knows a key that asks for capture, and others."""

    @hookimpl
    def authenticate(self, call: Call) -> Principal:
        return Principal("me", labels={"capture": call.header("x-api-key") or "false"})


@pytest.mark.parametrize(
    ("when", "key", "translated"),
    [
        ("captured", "yes", True),
        ("captured", "false", False),
        ("always", "false", True),
        ("needed", "yes", False),
        ("never", "yes", False),
    ],
)
async def test_option_and_key_decide_which_messages_are_translated(
    gateway_for: GatewayFor, when: str, key: str, translated: bool
) -> None:
    engine = ByPath({"/v1/messages": said(NATIVE), CHAT: said(chat_answer())})
    async with ScriptedWorker(engine.script) as worker:
        plugin = entry(TRANSLATE, messages=when)
        live = await gateway_for(Labelled, plugin, workers=[worker.url])
        answer = await ask(live, headers={"x-api-key": key})
    assert answer.json()["id"] == ("chatcmpl-1" if translated else "m")


def test_manual_has_each_option_and_its_default() -> None:
    text = (DOCS / "dialects.md").read_text().partition("## Options")[2].partition("\n## ")[0]
    told: dict[str, Any] = {}
    for names, default in re.findall(r"^\| (`.+?`) \| `(.*?)` \|", text, re.MULTILINE):
        told |= dict.fromkeys(re.findall(r"`(\w+)`", names), default)
    options = msgspec.to_builtins(Translate.Config())
    assert told == {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in options.items()
    }
