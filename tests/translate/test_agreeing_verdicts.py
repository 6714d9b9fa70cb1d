"""The verdict of a translated call agrees with what its caller got, whatever the engine sent."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from anthropic import AsyncAnthropic
from support.gateways.capturing import capturing
from support.workers.by_path import ByPath, chat_answer, said

from gateway import Trace
from gateway.client import AsyncGatewayClient
from gateway.testing import DONE, GatewayFor, Live, ScriptedWorker, answer_of, sse

TRANSLATE = "gateway_plugins.translate:Translate"
CHAT = "/v1/chat/completions"
ASKED: dict[str, dict[str, Any]] = {
    "messages": {"max_tokens": 9, "messages": [{"role": "user", "content": "Hello"}]},
    "responses": {"input": "Hello"},
}
ENDS = {"messages": "message_stop", "responses": "response.completed"}
APIS = list(ASKED)
HEAD = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "sim"}
USAGE = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
ODD = ['{"a": -Infinity}', "-Infinity", '{"a": "b', '{"a": 1}}', "[1]", '"x"', "[" * 5_000]


def calling(arguments: str) -> dict[str, Any]:
    """A message with one call of a tool."""
    function = {"name": "f", "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"id": "t", "index": 0, "function": function}]}


def plain(message: dict[str, Any], finish: str) -> bytes:
    body = chat_answer()
    body["choices"][0] |= {"message": message, "finish_reason": finish}
    return said(body)


def streamed(delta: dict[str, Any], finish: str | None, *, done: bool = True) -> bytes:
    """A stream of one token, as vLLM sends it to those who ask for ids."""
    logprobs = {"content": [{"token": "Hi", "logprob": -0.5, "bytes": [72]}]}
    role = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
    token = {"index": 0, "delta": delta, "logprobs": logprobs, "token_ids": [5]}
    choices: list[Any] = [role, {**token, "finish_reason": finish}]
    events = [{**HEAD, "choices": [choice]} for choice in choices]
    events[0] |= {"prompt_token_ids": [1, 2, 3]}
    body = sse(*events, {**HEAD, "choices": [], "usage": USAGE}) + (DONE if done else b"")
    return answer_of(body, content_type="text/event-stream")


class Before:
    """A gateway before an engine that answers with `response`, and what became of one call."""

    def __init__(self, gateway_for: GatewayFor, folder: Path) -> None:
        self._gateway_for = gateway_for
        self._folder = folder

    async def ask(
        self, response: bytes, api: str, *, stream: bool, **settings: Any
    ) -> tuple[httpx.Response, Trace]:
        async with ScriptedWorker(ByPath({CHAT: response}).script) as worker:
            live = await self.serve(worker.url, **settings)
            body = {"model": "sim", "stream": stream, **ASKED[api]}
            answer = await live.client.post(f"/sessions/s/v1/{api}", json=body)
            return answer, await only(live)

    async def serve(self, url: str, **settings: Any) -> Live:
        return await capturing(
            self._gateway_for, self._folder, TRANSLATE, workers=[url], **settings
        )


@pytest.fixture
def before(gateway_for: GatewayFor, tmp_path: Path) -> Before:
    return Before(gateway_for, tmp_path)


async def only(live: Live) -> Trace:
    async with AsyncGatewayClient(live.url) as client:
        [trace] = await client.query_traces()
    return trace


def last_event(answer: httpx.Response) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(answer.text.rpartition("data: ")[2])
    return found


@pytest.mark.parametrize("arguments", ODD, ids=range(len(ODD)))
async def test_arguments_that_are_no_object_are_told_and_captured(
    before: Before, arguments: str
) -> None:
    """As in a stream: the agent is to tell the model, and a second sample would hide the first."""
    response = plain(calling(arguments), "tool_calls")
    answer, trace = await before.ask(response, "messages", stream=False)
    assert answer.status_code == 200
    [block] = answer.json()["content"]
    assert (block["type"], block["name"]) == ("tool_use", "f")
    assert block["input"] == {"INVALID_JSON": arguments}
    assert answer.json()["stop_reason"] == "tool_use"
    assert (trace.verdict, trace.reasons) == ("COMPLETE", [])


@pytest.mark.parametrize("arguments", ODD, ids=range(len(ODD)))
async def test_arguments_that_are_no_object_are_streamed_as_they_are(
    before: Before, arguments: str
) -> None:
    response = streamed(calling(arguments), "tool_calls")
    answer, trace = await before.ask(response, "messages", stream=True)
    data = [json.loads(line[6:]) for line in answer.text.splitlines() if line[:5] == "data:"]
    told = [one["delta"] for one in data if one["type"] == "content_block_delta"]
    assert told == [{"type": "input_json_delta", "partial_json": arguments}]
    assert [one["type"] for one in data][-2:] == ["message_delta", "message_stop"]
    assert data[-2]["delta"]["stop_reason"] == "tool_use"
    assert (trace.verdict, trace.reasons) == ("COMPLETE", [])


async def test_client_of_anthropic_takes_a_broken_call_and_does_not_ask_again(
    before: Before,
) -> None:
    engine = ByPath({CHAT: plain(calling('{"a": "b'), "tool_calls")})
    async with ScriptedWorker(engine.script) as worker:
        live = await before.serve(worker.url)
        async with AsyncAnthropic(base_url=f"{live.url}/sessions/s", api_key="k") as client:
            message = await client.messages.create(model="sim", **ASKED["messages"])
    [block] = message.content
    assert block.type == "tool_use"
    assert block.input == {"INVALID_JSON": '{"a": "b'}
    assert len(engine.bodies[CHAT]) == 1


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("done", [True, False], ids=["done", "closed"])
async def test_stream_with_a_finish_reason_is_whole_with_and_without_done(
    before: Before, api: str, *, done: bool
) -> None:
    answer, trace = await before.ask(
        streamed({"content": "Hi"}, "stop", done=done), api, stream=True
    )
    assert last_event(answer)["type"] == ENDS[api]
    assert (trace.verdict, trace.reasons) == ("COMPLETE", [])


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("done", [True, False], ids=["done", "closed"])
async def test_stream_without_a_finish_reason_is_never_whole(
    before: Before, api: str, *, done: bool
) -> None:
    answer, trace = await before.ask(streamed({"content": "Hi"}, None, done=done), api, stream=True)
    assert last_event(answer)["type"] in ("error", "response.failed")
    assert (trace.verdict, trace.reasons) == ("INCOMPLETE", ["unfinished"])


@pytest.mark.parametrize("api", APIS)
async def test_stream_that_has_no_equal_is_an_error_and_no_complete_trace(
    before: Before, api: str
) -> None:
    """Calls that are mixed: the tokens are all there, and the caller has no answer."""
    mixed = [(0, {"name": "f"}), (1, {"name": "g"}), (0, {"arguments": "{}"})]
    delta = {"tool_calls": [{"index": number, "function": one} for number, one in mixed]}
    answer, trace = await before.ask(streamed(delta, "tool_calls"), api, stream=True)
    assert last_event(answer)["type"] in ("error", "response.failed")
    assert (trace.verdict, trace.reasons) == ("INCOMPLETE", ["response_not_translated"])
    assert "not open" in trace.metadata["response_not_translated"]


@pytest.mark.parametrize("api", APIS)
async def test_plain_response_that_has_no_equal_is_an_error_and_no_complete_trace(
    before: Before, api: str
) -> None:
    message = {"role": "assistant", "content": [{"type": "text", "text": "Hi"}]}
    answer, trace = await before.ask(plain(message, "stop"), api, stream=False)
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "upstream_error"
    assert trace.verdict == "INCOMPLETE"
    assert "response_not_translated" in trace.reasons


async def test_message_that_the_engine_gave_up_is_aborted_and_nothing_else(before: Before) -> None:
    answer, trace = await before.ask(
        plain({"role": "assistant", "content": "Hi"}, "abort"), "messages", stream=False
    )
    assert answer.status_code == 502
    assert trace.reasons == ["aborted"]
    assert trace.error == "The worker ended the response early."
