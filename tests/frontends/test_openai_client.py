"""The real `openai` client, unmodified, before the gateway and the simulator."""

import json
from collections.abc import AsyncIterator, Iterable

import openai
import pytest
from openai import AsyncOpenAI, AsyncStream
from openai.types.chat import (
    ChatCompletionChunk,
    ChatCompletionFunctionToolParam,
    ChatCompletionUserMessageParam,
)
from openai.types.chat.chat_completion import Choice
from openai.types.chat.chat_completion_chunk import Choice as ChunkChoice

from gateway.config import Timeouts
from gateway.simulator import Simulator
from gateway.testing import GatewayFor

HELLO: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "Hello"}]
NOW: ChatCompletionFunctionToolParam = {
    "type": "function",
    "function": {
        "name": "now",
        "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}},
    },
}


@pytest.fixture(params=["/v1", "/sessions/my-agent:7/v1"])
async def client(
    request: pytest.FixtureRequest, gateway_for: GatewayFor
) -> AsyncIterator[AsyncOpenAI]:
    live = await gateway_for("sessions", timeouts=Timeouts(first_byte=0.2))
    url = live.url + request.param
    async with AsyncOpenAI(base_url=url, api_key="unused", max_retries=0) as opened:
        yield opened


async def read(stream: AsyncStream[ChatCompletionChunk], into: list[ChatCompletionChunk]) -> None:
    async for chunk in stream:
        into.append(chunk)  # noqa: PERF401  what came before an error counts


def text_of(chunks: list[ChatCompletionChunk], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
    return "".join(choice.delta.content or "" for choice in choices)


async def test_openai_client_lists_models(client: AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["sim"]


async def test_openai_client_receives_a_chat_completion(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="sim", messages=HELLO, seed=1, max_tokens=20
    )
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0


async def test_chat_stream_has_the_same_text_and_usage_as_plain_chat(client: AsyncOpenAI) -> None:
    plain = await client.chat.completions.create(model="sim", messages=HELLO, seed=1, max_tokens=20)
    stream = await client.chat.completions.create(
        model="sim",
        messages=HELLO,
        seed=1,
        max_tokens=20,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert text_of(chunks) == plain.choices[0].message.content
    assert chunks[-1].usage is not None
    assert plain.usage is not None
    assert chunks[-1].usage.completion_tokens == plain.usage.completion_tokens


async def test_completion_stream_has_the_same_text_as_a_completion(client: AsyncOpenAI) -> None:
    answer = await client.completions.create(model="sim", prompt="The harbour", seed=1, logprobs=2)
    stream = await client.completions.create(model="sim", prompt="The harbour", seed=1, stream=True)
    text = "".join([chunk.choices[0].text async for chunk in stream])
    assert text == answer.choices[0].text
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert answer.usage is not None
    assert len(logprobs.token_logprobs or ()) == answer.usage.completion_tokens


async def test_openai_client_receives_a_tool_call(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="sim",
        messages=HELLO,
        seed=1,
        tools=[NOW],
        tool_choice={"type": "function", "function": {"name": "now"}},
    )
    [called] = answer.choices[0].message.tool_calls or []
    assert called.type == "function"
    assert called.function.name == "now"
    assert isinstance(json.loads(called.function.arguments), dict)


async def test_openai_client_receives_a_streamed_tool_call(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="sim", messages=HELLO, seed=1, tools=[NOW], tool_choice="required", stream=True
    )
    calls = [
        call
        async for chunk in stream
        for choice in chunk.choices
        for call in choice.delta.tool_calls or ()
    ]
    names = [call.function.name for call in calls if call.function and call.function.name]
    arguments = [call.function.arguments or "" for call in calls if call.function]
    assert names == ["now"]
    assert isinstance(json.loads("".join(arguments)), dict)


def logprobs_of(choices: Iterable[Choice | ChunkChoice], index: int) -> list[float]:
    return [
        token.logprob
        for choice in choices
        if choice.index == index and choice.logprobs is not None
        for token in choice.logprobs.content or ()
    ]


async def test_streamed_choices_have_the_logprobs_of_a_plain_response(client: AsyncOpenAI) -> None:
    plain = await client.chat.completions.create(
        model="sim", messages=HELLO, seed=1, max_tokens=5, n=2, logprobs=True
    )
    stream = await client.chat.completions.create(
        model="sim", messages=HELLO, seed=1, max_tokens=5, n=2, logprobs=True, stream=True
    )
    streamed = [choice async for chunk in stream for choice in chunk.choices]
    for index in (0, 1):
        found = logprobs_of(plain.choices, index)
        assert 0 < len(found) <= 5
        assert all(logprob <= 0 for logprob in found)
        assert logprobs_of(streamed, index) == found


# errors


async def test_unknown_model_raises_the_404_of_the_worker(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="`gpt-9` does not exist") as caught:
        await client.chat.completions.create(model="gpt-9", messages=HELLO)
    assert caught.value.type == "NotFoundError"
    assert caught.value.request_id


@pytest.mark.parametrize("stream", [False, True])
async def test_bad_parameter_raises_the_400_of_the_worker(
    client: AsyncOpenAI, stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature") as caught:
        await client.chat.completions.create(
            model="sim", messages=HELLO, temperature=-1, stream=stream
        )
    assert caught.value.type == "BadRequestError"


async def test_unknown_path_raises_the_404_of_the_gateway(gateway_for: GatewayFor) -> None:
    live = await gateway_for()
    async with AsyncOpenAI(base_url=live.url + "/v2", api_key="unused", max_retries=0) as client:
        with pytest.raises(openai.NotFoundError) as caught:
            await client.models.list()
    assert caught.value.code == "not_found"


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("reset-before", 502, "upstream_closed"),
        ("garbage", 502, "upstream_protocol_error"),
        ("hang", 504, "upstream_first_byte_timeout"),
        ("500", 500, "500"),
        ("503", 503, "None"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_failure_before_the_response_raises_with_a_status(
    client: AsyncOpenAI, stream: bool, fault: str, status: int, code: str
) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        await client.chat.completions.create(
            model="sim", messages=HELLO, stream=stream, extra_headers={"x-sim-fault": fault}
        )
    assert (caught.value.status_code, str(caught.value.code)) == (status, code)


async def test_error_event_of_an_engine_raises_its_error(client: AsyncOpenAI) -> None:
    chunks: list[ChatCompletionChunk] = []
    with pytest.raises(openai.APIError) as caught:
        await read(await failing(client, "error-event:3"), chunks)
    assert len(chunks) == 3
    assert str(caught.value.code) == "500"
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["message"] == caught.value.message


@pytest.mark.parametrize("fault", ["reset:3", "close:3"])
async def test_failure_amid_a_stream_raises(client: AsyncOpenAI, fault: str) -> None:
    chunks: list[ChatCompletionChunk] = []
    with pytest.raises(Exception, match=r"Connection error|incomplete chunked read"):
        await read(await failing(client, fault), chunks)
    assert len(chunks) == 3


async def failing(client: AsyncOpenAI, fault: str) -> AsyncStream[ChatCompletionChunk]:
    return await client.chat.completions.create(
        model="sim", messages=HELLO, stream=True, extra_headers={"x-sim-fault": fault}
    )


@pytest.mark.parametrize("fault", ["reset", "close", "truncate"])
async def test_failure_amid_a_plain_response_raises(client: AsyncOpenAI, fault: str) -> None:
    with pytest.raises(openai.APIConnectionError):
        await client.chat.completions.create(
            model="sim", messages=HELLO, extra_headers={"x-sim-fault": fault}
        )


async def test_engine_abort_is_returned_as_a_finish_reason(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="sim", messages=HELLO, extra_headers={"x-sim-fault": "abort:2"}
    )
    assert str(answer.choices[0].finish_reason) == "abort"


async def test_closing_the_stream_aborts_it_at_the_worker(
    client: AsyncOpenAI, simulator: Simulator
) -> None:
    stream = await client.chat.completions.create(
        model="sim", messages=HELLO, stream=True, extra_headers={"x-sim-itl": "60"}
    )
    await anext(aiter(stream))
    await stream.close()
    await simulator.idle()
    assert simulator.stats.aborted == 1
