"""SGLang behind a gateway that captures, played by a worker: no real one was run."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.gateways.capturing import capturing
from support.trainers.files import samples
from support.workers.sglang_worker import (
    EXPERTS,
    IDS,
    LOGPROBS,
    PROMPT,
    REFUSED,
    TOPS,
    VERSIONS,
    SGLang,
    written,
)
from wire.stripping.test_engines import strip

from gateway import Trace, config
from gateway.client import AsyncGatewayClient
from gateway.testing import NO_PROBES, GatewayFor, Live, ScriptedWorker, answer_of
from gateway.wire.apis.openai import CHAT as CHAT_DIALECT
from gateway.wire.apis.registry import dialect_of
from gateway.wire.apis.sglang import GENERATE as SGLANG_GENERATE
from gateway.wire.dialect import Unreadable
from gateway.wire.injection import INJECTIONS, inject

CHAT, COMPLETIONS, GENERATE = "/v1/chat/completions", "/v1/completions", "/generate"
PATHS = (GENERATE,)
ASKED: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
IN_SGLEXT = {"return_input_ids_in_sglext": True, "return_output_ids_in_sglext": True}

pytestmark = pytest.mark.usefixtures("kernel_of_module")


async def asked_of(live: Live, engine: SGLang, path: str, body: dict[str, Any]) -> Trace:
    """Ask; the caller gets what the engine says to its own request. Returns the trace."""
    said = await live.client.post(path, json=body)
    _, _, direct = engine.answer(path, body).partition(b"\r\n\r\n")
    assert (said.status_code, said.content) == (200, direct)
    async with AsyncGatewayClient(live.url) as client:
        return (await client.query_traces())[-1]


def is_whole(trace: Trace) -> bool:
    choices = trace.choices
    return bool(choices) and all(
        (one.prompt_token_ids, one.token_ids, one.logprobs) == (PROMPT, IDS, LOGPROBS)
        for one in choices
    )


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_completions_are_captured_and_stripped(
    gateway_for: GatewayFor, tmp_path: Path, stream: bool
) -> None:
    engine = SGLang()
    async with ScriptedWorker(engine.script) as worker:
        live = await capturing(gateway_for, tmp_path, workers=[worker.url], extra_paths=PATHS)
        body = {"model": "m", "prompt": "Hi", "stream": stream}
        trace = await asked_of(live, engine, COMPLETIONS, body)
    assert (trace.verdict, trace.reasons) == ("COMPLETE", [])
    assert is_whole(trace)
    assert engine.requests[-1]["return_token_ids"] is True


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("known", ["unknown", "probe", "models"])
async def test_chats_are_captured_and_stripped(
    gateway_for: GatewayFor, tmp_path: Path, known: str, stream: bool
) -> None:
    engine = SGLang()
    async with ScriptedWorker(engine.script) as server:
        worker = config.Worker(url=server.url, probe="sglang" if known == "probe" else False)
        probes = config.Probes(interval=None) if known == "models" else NO_PROBES
        live = await capturing(gateway_for, tmp_path, workers=[worker], probes=probes)
        if known == "models":
            await live.gateway.workers.refresh_models()
        traces = [await asked_of(live, engine, CHAT, {**ASKED, "stream": stream}) for _ in "12"]
    for trace in traces:
        assert (trace.verdict, trace.reasons) == ("COMPLETE", [])
        assert is_whole(trace)
        assert (trace.choices[0].message or {})["content"] == "Hello"
    refused = [one for one in engine.requests if one.get("stream") and one.get("return_token_ids")]
    assert len(refused) == (1 if stream and known == "unknown" else 0), "the way is remembered"
    assert len(engine.requests) == 2 + len(refused)
    assert traces[0].weight_version == (None if stream else "v1")


async def test_versions_of_weights_are_in_plain_chats(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    engine = SGLang()
    async with ScriptedWorker(engine.script) as worker:
        live = await capturing(gateway_for, tmp_path, workers=[worker.url], extra_paths=PATHS)
        trace = await asked_of(live, engine, CHAT, ASKED)
    spans = trace.choices[0].weight_versions or []
    assert [(one.version, one.start, one.end) for one in spans] == [
        tuple(span.values()) for span in VERSIONS
    ]


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_alternatives_and_experts_are_in_traces_and_exports(
    gateway_for: GatewayFor, tmp_path: Path, stream: bool
) -> None:
    engine = SGLang()
    async with ScriptedWorker(engine.script) as worker:
        live = await capturing(gateway_for, tmp_path, workers=[worker.url], extra_paths=PATHS)
        asked = {"return_logprob": True, "top_logprobs_num": 2, "return_routed_experts": True}
        body = {"input_ids": PROMPT, "sampling_params": {}, "stream": stream, **asked}
        await live.client.post(f"/sessions/s{GENERATE}", json=body)
        async with AsyncGatewayClient(live.url) as client:
            [trace] = await client.query_traces()
        exported = await live.client.get("/sessions/s/trajectories", params={"format": "slime"})
    [choice] = trace.choices
    assert (trace.verdict, choice.routing_matrices, choice.top_logprobs) == (
        "COMPLETE",
        EXPERTS,
        TOPS,
    )
    [row] = samples(exported.content)
    assert row["rollout_routed_experts"] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert row["rollout_top_token_ids"] == [[11, 9], [12, -1], [2, -1]]
    assert row["weight_versions"] == ["v1", "v2"]


@pytest.mark.parametrize(
    ("known", "reasons"),
    [("v1", ["versions_differ"]), (None, []), ("default", [])],
)
async def test_weights_that_the_fleet_does_not_know_are_a_reason(
    gateway_for: GatewayFor, tmp_path: Path, known: str | None, reasons: list[str]
) -> None:
    engine = SGLang()
    async with ScriptedWorker(engine.script) as worker:
        live = await capturing(gateway_for, tmp_path, workers=[worker.url], extra_paths=PATHS)
        live.gateway.workers.all[0].weight_version = known
        trace = await asked_of(live, engine, CHAT, ASKED)
    assert trace.reasons == trace.choices[0].reasons == reasons


@pytest.mark.parametrize(
    ("engine", "reasons"),
    [
        (SGLang(parses=False), ["counts_differ"]),
        (SGLang(has_sglext=False), ["prompt_ids_missing", "token_ids_missing"]),
    ],
    ids=["no parser", "old"],
)
async def test_streamed_chats_of_some_servers_are_incomplete(
    gateway_for: GatewayFor, tmp_path: Path, engine: SGLang, reasons: list[str]
) -> None:
    async with ScriptedWorker(engine.script) as worker:
        live = await capturing(gateway_for, tmp_path, workers=[worker.url], extra_paths=PATHS)
        trace = await asked_of(live, engine, CHAT, {**ASKED, "stream": True})
    assert trace.reasons == reasons


@pytest.mark.parametrize(
    "more",
    [
        {"return_prompt_token_ids": True},
        {"return_token_ids": True},
        {"return_meta_info": True},
        {"return_output_ids_in_sglext": True},
        {"stream": True, "return_input_ids_in_sglext": True},
        {"stream": True, "return_output_ids_in_sglext": True},
        {"stream": True, "return_cached_tokens_details": True},
        {"stream": True, "logprobs": True},
        {"stream": True, "stream_options": {"include_usage": True}, **IN_SGLEXT},
    ],
    ids=str,
)
async def test_callers_keep_what_they_ask_for_themselves(
    gateway_for: GatewayFor, tmp_path: Path, more: dict[str, Any]
) -> None:
    engine = SGLang()
    async with ScriptedWorker(engine.script) as server:
        worker = config.Worker(url=server.url, probe="sglang")
        live = await capturing(gateway_for, tmp_path, workers=[worker], extra_paths=PATHS)
        trace = await asked_of(live, engine, CHAT, {**ASKED, **more})
    assert (trace.verdict, trace.reasons) == ("COMPLETE", [])
    assert is_whole(trace)


async def test_callers_may_ask_by_headers(gateway_for: GatewayFor, tmp_path: Path) -> None:
    engine = SGLang()
    async with ScriptedWorker(engine.script) as server:
        worker = config.Worker(url=server.url, probe="sglang")
        live = await capturing(gateway_for, tmp_path, workers=[worker], extra_paths=PATHS)
        headers = {"x-sglext-return-output-ids": "1"}
        await live.client.post(CHAT, json={**ASKED, "stream": True}, headers=headers)
    [asked] = engine.requests
    assert not [name for name in asked if name.endswith("_in_sglext")]
    assert asked["logprobs"] is True


async def test_worker_that_rejects_both_ways_is_asked_once_in_each(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    engine = SGLang()
    refusal = {"object": "error", "message": f"{REFUSED} {' '.join(IN_SGLEXT)}", "code": 400}
    answer = answer_of(written(refusal), status="400 Bad Request")
    engine.answer = lambda path, asked: answer  # type: ignore[method-assign]
    async with ScriptedWorker(engine.script) as worker:
        live = await capturing(gateway_for, tmp_path, workers=[worker.url], extra_paths=PATHS)
        said = await live.client.post(CHAT, json={**ASKED, "stream": True})
    assert (said.status_code, said.content) == (400, written(refusal))
    asked = [[name for name in one if name.startswith("return")] for one in engine.requests]
    assert asked == [["return_token_ids"], list(IN_SGLEXT), []]


@pytest.mark.parametrize("incremental", [False, True], ids=["repeating", "incremental"])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("prompt", [{"input_ids": PROMPT}, {"text": "Hi"}], ids=["ids", "text"])
async def test_generate_is_captured_and_stripped(
    gateway_for: GatewayFor,
    tmp_path: Path,
    prompt: dict[str, Any],
    n: int,
    stream: bool,
    incremental: bool,
) -> None:
    if stream and n > 1:
        pytest.skip("this worker streams one sequence")
    engine = SGLang(incremental=incremental)
    body = {**prompt, "sampling_params": {"max_new_tokens": 3, "n": n}, "stream": stream}
    async with ScriptedWorker(engine.script) as worker:
        live = await capturing(gateway_for, tmp_path, workers=[worker.url], extra_paths=PATHS)
        for more in ({}, {"return_logprob": True}, {"return_prompt_token_ids": True}):
            trace = await asked_of(live, engine, GENERATE, {**body, **more})
            assert (trace.verdict, trace.reasons) == ("COMPLETE", [])
            assert is_whole(trace)
    assert [choice.text for choice in trace.choices] == ["Hello"] * n
    assert (trace.finish_reason, trace.response_id) == ("length", "g1")
    assert (trace.dialect, trace.sampling_params) == ("sglang_generate", body["sampling_params"])
    assert trace.weight_version == "v1"


@pytest.mark.parametrize(
    "body",
    [
        {"text": "Hi", "sampling_params": {}, "top_logprobs_num": 2},
        {"inputs": "Hi", "parameters": {"details": True}},
    ],
    ids=["alternatives", "another server"],
)
async def test_logprobs_of_generate_that_cannot_be_stripped_are_not_requested(
    gateway_for: GatewayFor, tmp_path: Path, body: dict[str, Any]
) -> None:
    engine = SGLang()
    async with ScriptedWorker(engine.script) as worker:
        live = await capturing(gateway_for, tmp_path, workers=[worker.url], extra_paths=PATHS)
        await live.client.post(GENERATE, json={"sampling_params": {}, **body})
    assert "return_logprob" not in engine.requests[0]


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        (COMPLETIONS, {"prompt": "Hi"}),
        (CHAT, ASKED),
        (CHAT, {**ASKED, "return_cached_tokens_details": True}),
        (CHAT, {**ASKED, "return_output_ids_in_sglext": True}),
        (GENERATE, {"text": "Hi"}),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 120, 10_000])
def test_stream_is_stripped_alike_in_whatever_pieces_it_comes(
    path: str, asked: dict[str, Any], size: int
) -> None:
    engine, asked = SGLang(), {**asked, "stream": True}
    dialect = dialect_of(path)
    assert dialect is not None
    found, stripper = inject(dialect, asked, INJECTIONS, engine="sglang")
    _, _, told = engine.answer(path, {**asked, **found.changes}).partition(b"\r\n\r\n")
    _, _, direct = engine.answer(path, asked).partition(b"\r\n\r\n")
    pieces = [told[at : at + size] for at in range(0, len(told), size)]

    assert told != direct
    assert strip(told, frozenset(), pieces, stripper) == direct


@pytest.mark.parametrize("framed", [b"event: sglext_ids\n", b"event:sglext_ids\r\n"])
def test_ids_in_an_event_of_another_name_are_stripped(framed: bytes) -> None:
    found, stripper = inject(CHAT_DIALECT, {"stream": True}, INJECTIONS, engine="sglang")
    _, _, told = SGLang().answer(CHAT, {**found.changes, "stream": True}).partition(b"\r\n\r\n")
    *before, ids, usage, done, _ = told.split(b"\n\n")
    assert b"sglext" in ids
    direct = SGLang().answer(CHAT, {"stream": True}).partition(b"\r\n\r\n")[2]
    answer = b"\n\n".join([*before, framed + ids, usage, done, b""])
    assert strip(answer, frozenset(), None, stripper) == direct


@given(st.binary() | st.recursive(st.none() | st.text(), st.lists).map(written))
def test_anything_may_come_from_generate(text: bytes) -> None:
    _, stripper = inject(SGLANG_GENERATE, {"text": "Hi"}, INJECTIONS)
    assert stripper is not None
    stripper.plain(text)
    for read in (SGLANG_GENERATE.read_answer, SGLANG_GENERATE.read_event):
        with suppress(Unreadable):
            read(text)
