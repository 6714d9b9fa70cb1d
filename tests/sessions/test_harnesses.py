"""What recorded calls of harnesses say of themselves, and how presets of an operator read it."""

import json
import tracemalloc
from collections.abc import Mapping
from typing import Any

import pytest
from gateway_plugins.sessions.harnesses import Harnesses, compile_preset
from gateway_plugins.sessions.places import parse_place, read_place
from gateway_plugins.sessions.presets import PRESETS
from hypothesis import given
from hypothesis import strategies as st
from support.paths import SUPPORT

from gateway import Call, CallKind, ConfigError, Harness, Principal, hookimpl
from gateway.testing import GatewayFor, Live, entry

RECORDED = {
    one["name"]: one
    for one in map(json.loads, (SUPPORT / "data" / "harnesses.jsonl").read_text().splitlines())
}
CLAUDE = "1d190bc6-3eea-4ae7-ad0d-f84719cac849"
CODEX = "01a22e87-75ba-79f1-9de1-29e3fd2f6eea"


class Witness:
    """Keeps each call's session and harness."""

    def __init__(self) -> None:
        self.seen: list[tuple[str | None, Harness | None]] = []

    @hookimpl
    async def call_finished(self, call: Call) -> None:
        self.seen.append((call.session_id, call.harness))


class OneKey:
    """Every caller has the same key."""

    @hookimpl
    async def authenticate(self) -> Principal:
        return Principal("researcher")


def said(name: str, kind: CallKind | None = None, **ids: str) -> Harness:
    return Harness(name, call_kind=kind, **ids)


async def ask(gateway: Live, recorded: Mapping[str, Any], prefix: str = "") -> None:
    body = {"model": "sim", "messages": [], **recorded["body"]}
    await gateway.client.post(prefix + recorded["path"], headers=recorded["headers"], json=body)


@pytest.mark.parametrize(
    ("name", "session_id", "harness"),
    [
        ("claude-code/basic/1", "126e28d3-3182-46ce-8348-9165a35f4ea7", said("claude-code")),
        (
            "claude-code/compact/4",
            "c5b92ce0-7406-44e1-8430-0a7be9eed8a5",
            said("claude-code", "compaction"),
        ),
        ("claude-code/sub/1", CLAUDE, said("claude-code")),
        ("claude-code/sub/3", CLAUDE, said("claude-code", agent_id="ab349355b40e8e5dc")),
        ("codex/basic/1", "01a22e86-e339-78c3-8cfa-1574d408393e", said("codex", "turn")),
        ("codex/compact/4", "01a22e87-69e0-74e3-8d24-7b9c68efe89e", said("codex", "compaction")),
        ("codex/sub/1", CODEX, said("codex", "turn")),
        (
            "codex/sub/3",
            CODEX,
            said("codex", "turn", agent_id="01a22e87-767c-7e30-ade0-60c9185dbdea"),
        ),
        ("copilot/basic/1", None, said("copilot", "turn")),
        ("copilot/basic/2", None, said("copilot")),
        ("copilot/responses/1", "3c32e66babe6bd11d7a8a2ed8f811374", said("copilot", "turn")),
        ("copilot/sub/2", None, said("copilot", "subagent")),
        ("copilot/413ctx/3", None, said("copilot", "compaction")),
        ("kimi-code/basic/1", "session_d96e6ebe-2815-4a3c-839c-bbd9370594f3", said("kimi-code")),
        (
            "kimi-code/anthropic/1",
            "session_bc0e9f6b-b148-44b3-952d-7843b7900e1d",
            said("kimi-code"),
        ),
        ("opencode/basic/2", "ses_dd1771e4dffeT9yzk54b9TcyKz", said("opencode")),
        ("opencode/openai/2", "ses_dd1729e43ffeot6a3KeVM1c1Km", said("opencode")),
        (
            "opencode/sub/3",
            "ses_dd1761829ffeNEsnr07P2GQatA",
            said("opencode", parent_session_id="ses_dd176457fffe0Kodb2I8731gbv"),
        ),
        ("openhands-sdk/basic/1", "153c0797-7e38-4b76-9259-87cc5696a1c2", said("openhands")),
        ("pi/basic/1", None, None),
        ("qwen-code/basic/1", None, said("qwen-code")),
        ("harbor-terminus2/basic/1", "sess-0001", None),
        ("cline/basic/1", None, None),
    ],
)
async def test_recorded_call_says_its_session_and_its_agent(
    gateway_for: GatewayFor, name: str, session_id: str | None, harness: Harness | None
) -> None:
    gateway = await gateway_for("sessions", Witness)
    await ask(gateway, RECORDED[name])
    assert gateway.plugin(Witness).seen == [(session_id, harness)]


async def test_session_in_the_path_comes_before_that_of_the_harness(
    gateway_for: GatewayFor,
) -> None:
    gateway = await gateway_for("sessions", Witness)
    await ask(gateway, RECORDED["claude-code/sub/3"], "/sessions/mine")
    assert gateway.plugin(Witness).seen == [
        ("mine", said("claude-code", agent_id="ab349355b40e8e5dc"))
    ]


async def test_session_beyond_ascii_is_one_by_any_header(gateway_for: GatewayFor) -> None:
    gateway = await gateway_for("sessions", Witness)
    for name in (b"x-session-id", b"session-id"):
        headers = {b"user-agent": b"codex_exec/0.171.0", name: "é".encode()}
        await gateway.client.get("/v1/models", headers=headers)
    assert [session_id for session_id, _ in gateway.plugin(Witness).seen] == ["é", "é"]


async def test_known_harnesses_can_be_turned_off(gateway_for: GatewayFor) -> None:
    gateway = await gateway_for(entry("sessions", known_harnesses=False), Witness)
    await ask(gateway, RECORDED["claude-code/basic/1"])
    assert gateway.plugin(Witness).seen == [(None, None)]


async def test_own_preset_comes_before_the_known_one_of_the_same_name(
    gateway_for: GatewayFor,
) -> None:
    preset = {
        "when": {"header:user-agent": "claude-cli/*"},
        "session": ["header:x-run", "body:metadata.run.id"],
        "agent": ["body:metadata.agent"],
        "call_kind": {"body:metadata.kind": {"sum*": "compaction"}},
    }
    gateway = await gateway_for(entry("sessions", harnesses={"claude-code": preset}), Witness)
    metadata = {"run": '{"id": "r-1"}', "agent": "a", "kind": "summary"}
    call = {**RECORDED["claude-code/basic/1"], "body": {"metadata": metadata}}
    await ask(gateway, call)
    assert gateway.plugin(Witness).seen == [
        ("r-1", said("claude-code", "compaction", agent_id="a"))
    ]


@pytest.mark.parametrize(
    ("preset", "words"),
    [
        ({"when": {}}, "at least one place"),
        ({"when": {"body:model": "*"}}, "headers"),
        ({"when": {"user-agent": "*"}}, "'user-agent' is no place"),
        ({"when": {"header:a": "*"}, "session": ["body:a..b"]}, "'body:a..b' is no place"),
    ],
)
async def test_preset_that_cannot_be_read_is_refused_by_its_name(
    gateway_for: GatewayFor, preset: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as raised:
        await gateway_for(entry("sessions", harnesses={"mine": preset}))
    assert "harnesses.mine" in str(raised.value)


async def test_caller_without_a_session_gets_that_of_its_key(gateway_for: GatewayFor) -> None:
    plugin = entry("sessions", fallback="principal")
    gateway = await gateway_for(OneKey, plugin, Witness)
    await ask(gateway, RECORDED["cline/basic/1"])
    await ask(gateway, RECORDED["qwen-code/basic/1"])
    await ask(gateway, RECORDED["codex/sub/1"])
    sessions = [session_id for session_id, _ in gateway.plugin(Witness).seen]
    assert sessions == ["researcher", "researcher", CODEX]


@pytest.mark.parametrize("session", ["x" * 257, "a\nb", "..", "", 7, None, ["a"]])
async def test_what_cannot_be_an_id_is_no_session_of_a_harness(
    gateway_for: GatewayFor, session: object
) -> None:
    gateway = await gateway_for("sessions", Witness)
    call = {**RECORDED["kimi-code/basic/1"], "body": {"prompt_cache_key": session}}
    await ask(gateway, call)
    assert gateway.plugin(Witness).seen == [(None, said("kimi-code"))]


async def test_body_that_is_no_json_goes_on_to_the_worker(gateway_for: GatewayFor) -> None:
    gateway = await gateway_for("sessions", Witness)
    headers = {"user-agent": "kimi-code-cli/2.1.0"}
    for body in (b"", b"{", b"[1]", b"\xff"):
        await gateway.client.post("/v1/chat/completions", headers=headers, content=body)
    assert gateway.plugin(Witness).seen == [(None, said("kimi-code"))] * 4


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from("ab"), inner, max_size=2)
        | st.builds(json.dumps, st.dictionaries(st.sampled_from("ab"), inner, max_size=2))
    ),
)


@given(
    st.dictionaries(st.sampled_from("ab"), json_values), st.lists(st.sampled_from("ab"), min_size=1)
)
def test_place_leads_through_objects_and_through_json_in_texts(
    body: dict[str, Any], keys: list[str]
) -> None:
    value: Any = body
    for key in keys:
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError:
                value = None
        value = value.get(key) if isinstance(value, dict) else None
    found = read_place(parse_place("body:" + ".".join(keys)), {}, body)
    assert found == (value if isinstance(value, str) and value else None)


def test_long_user_agents_of_strangers_fill_no_memory() -> None:
    """Each may be as long as the largest header; a known one is still found among them."""
    presets = Harnesses(compile_preset(*one) for one in PRESETS.items())
    tracemalloc.start()
    try:
        for number in range(200):
            agent = b"%06d" % number + bytes(60_000)
            assert presets.find([(b"user-agent", agent)]) is None
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1_000_000
    assert presets.find([(b"user-agent", b"opencode/1")]) is not None
