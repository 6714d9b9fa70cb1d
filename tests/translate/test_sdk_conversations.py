"""The clients of Anthropic and OpenAI, unmodified, hold whole conversations with tools.

The worker speaks only chat; its model plays a script with the tool that the client offers.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import openai
import pytest
from anthropic import AsyncAnthropic, beta_async_tool
from support.agents.conversation import Step
from support.agents.scripted_model import Fault, ScriptedModel
from support.agents.stage import TRANSLATE, in_order, tokens
from support.gateways.capturing import CAPTURE

from gateway import Trace
from gateway.client import AsyncGatewayClient
from gateway.config import StorageSettings, Worker
from gateway.testing import GatewayFor, Live, ScriptedWorker, entry

TASK = "How many files are there?"
LAST = "There are three files."
STEPS = [
    Step("First I look.", "ls", "Where are they?"),
    Step("Now I count.", "ls | wc -l", "How many?"),
    Step(LAST, thought="Three."),
]
OUTPUTS = {"ls": "a b c", "ls | wc -l": "3"}

both_ways = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
thinking_or_not = pytest.mark.parametrize("thinks", [False, True], ids=["", "thinking"])


class Stage(msgspec.Struct, frozen=True):
    live: Live
    model: ScriptedModel

    @property
    def url(self) -> str:
        return f"{self.live.url}/sessions/s"

    async def traces(self) -> list[Trace]:
        async with AsyncGatewayClient(self.live.url) as client:
            return await client.get_session_traces("s")


@asynccontextmanager
async def stage(
    gateway_for: GatewayFor,
    folder: Path,
    *,
    thinks: bool = False,
    faults: Mapping[int, Fault] | None = None,
) -> AsyncIterator[Stage]:
    model = ScriptedModel(STEPS, thinks=thinks, faults=faults)
    storage = StorageSettings(path=str(folder / "traces.db"))
    async with ScriptedWorker(model.script) as worker:
        only_chat = Worker(url=worker.url, apis=("chat",))
        plugins = ("sessions", CAPTURE, entry(TRANSLATE, extensions=True))
        live = await gateway_for(*plugins, workers=[only_chat], storage=storage)
        yield Stage(live, model)


@beta_async_tool
async def bash(command: str) -> str:
    """Runs a command.

    Args:
        command: What to run.
    """
    return OUTPUTS[command]


async def anthropic_says(url: str, *, stream: bool, retries: int = 0) -> str:
    """What the client's own loop has in the end."""
    async with AsyncAnthropic(base_url=url, api_key="none", max_retries=retries) as client:
        asked: Any = {"model": "sim", "max_tokens": 200, "tools": [bash]}
        asked["messages"] = [{"role": "user", "content": TASK}]
        if stream:
            messages = [
                await turn.get_final_message()
                async for turn in client.beta.messages.tool_runner(**asked, stream=True)
            ]
        else:
            messages = [one async for one in client.beta.messages.tool_runner(**asked)]
    assert [one.stop_reason for one in messages] == ["tool_use", "tool_use", "end_turn"]
    return "".join(block.text for block in messages[-1].content if block.type == "text").strip()


BASH: Any = {
    "type": "function",
    "name": "bash",
    "parameters": {"type": "object", "properties": {"command": {"type": "string"}}},
}


async def openai_says(url: str, *, stream: bool, retries: int = 0) -> str:
    asked: Any = {"model": "sim", "tools": [BASH], "store": False}
    asked["include"] = ["reasoning.encrypted_content"]
    said: list[Any] = [{"role": "user", "content": TASK}]
    async with openai.AsyncOpenAI(
        base_url=f"{url}/v1", api_key="none", max_retries=retries
    ) as client:
        while True:
            if stream:
                async with client.responses.stream(**asked, input=said) as events:
                    response: Any = await events.get_final_response()
            else:
                response = await client.responses.create(**asked, input=said)
            assert response.status == "completed"
            calls = [item for item in response.output if item.type == "function_call"]
            if not calls:
                return str(response.output_text).strip()
            said += [*response.output, *map(_result, calls)]


def _result(call: Any) -> dict[str, str]:
    output = OUTPUTS[msgspec.json.decode(call.arguments)["command"]]
    return {"type": "function_call_output", "call_id": call.call_id, "output": output}


SAYING = {"anthropic": anthropic_says, "openai": openai_says}
each_client = pytest.mark.parametrize("client", SAYING)


@each_client
@both_ways
@thinking_or_not
async def test_client_holds_a_conversation_and_each_call_is_captured(
    gateway_for: GatewayFor, tmp_path: Path, client: str, stream: bool, thinks: bool
) -> None:
    async with stage(gateway_for, tmp_path, thinks=thinks) as staged:
        assert await SAYING[client](staged.url, stream=stream) == LAST
        traces = await staged.traces()
        heard = [message.content for message in staged.model.asked[-1].messages]
    assert [str(text) for text in heard if str(text) in OUTPUTS.values()] == ["a b c", "3"]
    assert [(trace.verdict, trace.reasons) for trace in traces] == [("COMPLETE", [])] * 3
    assert tokens(traces) == in_order(staged.model.sampled)


async def test_anthropic_asks_again_for_a_plain_message_that_was_aborted(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    async with stage(gateway_for, tmp_path, faults={2: "aborted"}) as staged:
        assert await anthropic_says(staged.url, stream=False, retries=1) == LAST
        traces = await staged.traces()
    assert [trace.reasons for trace in traces] == [[], ["aborted"], [], []]
    assert tokens(traces) == in_order(staged.model.sampled)


@pytest.mark.slow  # each waits for a second
@each_client
@both_ways
async def test_client_retries_a_call_that_was_limited(
    gateway_for: GatewayFor, tmp_path: Path, client: str, stream: bool
) -> None:
    async with stage(gateway_for, tmp_path, faults={2: "limited"}) as staged:
        assert await SAYING[client](staged.url, stream=stream, retries=1) == LAST
        traces = await staged.traces()
    verdicts = [trace.verdict for trace in traces]
    assert verdicts == ["COMPLETE", "INCOMPLETE", "COMPLETE", "COMPLETE"]
    assert tokens(traces) == in_order(staged.model.sampled)


@each_client
@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("cut", "incomplete chunked read|Connection error"),
        ("error event", "The engine has died"),
        ("unfinished", "ended the response early|receive a `response.completed`"),
        ("aborted", "ended the response early|receive a `response.completed`"),
    ],
)
async def test_client_does_not_take_half_an_answer_for_a_whole_one(
    gateway_for: GatewayFor, tmp_path: Path, client: str, fault: Fault, told: str
) -> None:
    async with stage(gateway_for, tmp_path, faults={2: fault}) as staged:
        with pytest.raises(Exception, match=told):
            await SAYING[client](staged.url, stream=True)
        traces = await staged.traces()
    assert [trace.verdict for trace in traces] == ["COMPLETE", "INCOMPLETE"]
    assert len(staged.model.asked) == 2


async def test_a_thread_of_anthropic_is_refused_so_that_its_client_sends_all(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    async with stage(gateway_for, tmp_path) as staged:
        messages = [{"role": "user", "content": TASK}]
        asked = {
            "model": "sim",
            "max_tokens": 9,
            "messages": messages,
            "thread": {"type": "create"},
        }
        refused = await staged.live.client.post("/sessions/s/v1/messages", json=asked)
        assert staged.model.asked == []
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["details"] == {"error_code": "thread_unsupported_request"}
