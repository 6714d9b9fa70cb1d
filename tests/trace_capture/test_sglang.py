"""SGLang behind a gateway that captures, played by a worker: no real one was run."""

from pathlib import Path
from typing import Any

import pytest
from support.gateways.capturing import capturing
from support.workers.sglang_worker import IDS, LOGPROBS, PROMPT, VERSIONS, SGLang
from wire.stripping.test_engines import strip

from gateway import Trace
from gateway.client import AsyncGatewayClient
from gateway.testing import GatewayFor, Live, ScriptedWorker

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "user", "content": "Hi"}]
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
        live = await capturing(gateway_for, tmp_path, workers=[worker.url])
        body = {"model": "m", "prompt": "Hi", "stream": stream}
        trace = await asked_of(live, engine, COMPLETIONS, body)
    assert (trace.verdict, trace.reasons) == ("COMPLETE", [])
    assert is_whole(trace)
    assert engine.requests[-1]["return_token_ids"] is True


@pytest.mark.parametrize("more", [{}, {"return_prompt_token_ids": True}], ids=["bare", "prompt"])
async def test_plain_chats_lack_prompt_ids_unless_the_caller_asks(
    gateway_for: GatewayFor, tmp_path: Path, more: dict[str, Any]
) -> None:
    engine = SGLang()
    async with ScriptedWorker(engine.script) as worker:
        live = await capturing(gateway_for, tmp_path, workers=[worker.url])
        body = {"model": "m", "messages": MESSAGES}
        said = await live.client.post(CHAT, json={**body, **more})
        async with AsyncGatewayClient(live.url) as client:
            [trace] = await client.query_traces()
    [choice] = said.json()["choices"]
    assert "token_ids" not in choice
    assert choice["logprobs"] is None
    assert trace.reasons == ([] if more else ["prompt_ids_missing"])
    assert (trace.completion_token_ids, trace.choices[0].logprobs) == (IDS, LOGPROBS)
    assert trace.weight_version == "v1"
    spans = trace.choices[0].weight_versions or []
    assert [(one.version, one.start, one.end) for one in spans] == [
        tuple(span.values()) for span in VERSIONS
    ]


async def test_streamed_chats_reject_ids_and_have_them_in_sglext(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    engine = SGLang()
    async with ScriptedWorker(engine.script) as worker:
        live = await capturing(gateway_for, tmp_path, workers=[worker.url])
        body = {"model": "m", "messages": MESSAGES, "stream": True}
        bare = await asked_of(live, engine, CHAT, body)
        again = await asked_of(live, engine, CHAT, body)
        sent = len(engine.requests)
        whole = await asked_of(live, engine, CHAT, {**body, **IN_SGLEXT})
    assert sent == 3, "the second call is sent once, as the rejection is remembered"
    for trace in (bare, again):
        assert trace.reasons == ["prompt_ids_missing", "token_ids_missing"]
        assert trace.choices[0].logprobs == LOGPROBS
    assert (whole.verdict, whole.reasons) == ("COMPLETE", [])
    assert is_whole(whole)


@pytest.mark.parametrize("incremental", [False, True], ids=["repeating", "incremental"])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("n", [1, 2])
async def test_generate_is_captured_if_its_caller_asks_for_logprobs(
    gateway_for: GatewayFor, tmp_path: Path, n: int, stream: bool, incremental: bool
) -> None:
    if stream and n > 1:
        pytest.skip("this worker streams one sequence")
    engine = SGLang(incremental=incremental)
    body: dict[str, Any] = {
        "input_ids": PROMPT,
        "sampling_params": {"max_new_tokens": 3, "n": n},
        "return_logprob": True,
        "stream": stream,
    }
    async with ScriptedWorker(engine.script) as worker:
        paths = ("/generate",)
        live = await capturing(gateway_for, tmp_path, workers=[worker.url], extra_paths=paths)
        trace = await asked_of(live, engine, "/generate", body)
        bare = await asked_of(live, engine, "/generate", {**body, "return_logprob": False})
    assert (trace.verdict, trace.reasons) == ("COMPLETE", [])
    assert is_whole(trace)
    assert [choice.text for choice in trace.choices] == ["Hello"] * n
    assert (trace.finish_reason, trace.response_id) == ("length", "g1")
    assert trace.sampling_params == body["sampling_params"]
    assert trace.weight_version == "v1"
    assert bare.reasons == ["logprobs_missing"]


@pytest.mark.parametrize("size", [1, 7, 120, 10_000])
def test_stream_is_stripped_alike_in_whatever_pieces_it_comes(size: int) -> None:
    engine = SGLang()
    asked = {"prompt": "Hi", "stream": True}
    injected = {"return_token_ids": True, "logprobs": 0}
    _, _, told = engine.answer(COMPLETIONS, {**asked, **injected}).partition(b"\r\n\r\n")
    _, _, direct = engine.answer(COMPLETIONS, asked).partition(b"\r\n\r\n")
    pieces = [told[at : at + size] for at in range(0, len(told), size)]

    assert strip(told, frozenset(("token_ids", "logprobs")), pieces) == direct
