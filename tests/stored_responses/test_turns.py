"""Responses that are kept, and turns that follow them, asked for with OpenAI's own client."""

import asyncio
from typing import Any

import msgspec
import openai
import pytest

from gateway import Trace
from gateway.client import AsyncGatewayClient
from gateway.testing import Live

Client = openai.AsyncOpenAI


async def traces(running: Live) -> list[Trace]:
    async with AsyncGatewayClient(running.url) as client:
        return sorted(await client.query_traces(), key=lambda trace: trace.timestamp)


def messages_of(trace: Trace) -> Any:
    assert trace.raw_request is not None
    return trace.raw_request["messages"]


async def say(client: Client, words: str, **fields: Any) -> Any:
    return await client.responses.create(model="sim", input=words, max_output_tokens=5, **fields)


async def test_a_response_can_be_retrieved_as_it_was_given(client: Client) -> None:
    made = await say(client, "Hello", metadata={"a": "b"})
    again = await client.responses.retrieve(made.id)
    assert again.to_dict() == made.to_dict()
    assert again.to_dict()["store"] is True


async def test_a_streamed_response_is_kept_before_its_last_event(client: Client) -> None:
    async with client.responses.stream(model="sim", input="Hello", max_output_tokens=5) as stream:
        async for event in stream:
            if event.type == "response.completed":
                again = await client.responses.retrieve(event.response.id)
    final = await stream.get_final_response()
    assert again.output_text == final.output_text != ""


async def test_turns_that_follow_each_other_are_one_session(client: Client, running: Live) -> None:
    first = await say(client, "Hello", instructions="Be short.")
    second = await say(client, "And then?", previous_response_id=first.id)
    fork = await say(client, "Or else?", previous_response_id=first.id)
    assert second.previous_response_id == fork.previous_response_id == first.id
    found = await traces(running)
    assert [trace.verdict for trace in found] == ["COMPLETE"] * 3
    assert {trace.session_id for trace in found} == {first.id}
    messages = [messages_of(trace) for trace in found]
    assert [one["content"] for one in messages[0]] == [
        "Be short.",
        [{"type": "text", "text": "Hello"}],
    ]
    assert [one["role"] for one in messages[1]] == ["user", "assistant", "user"]
    assert messages[1][1]["content"] == first.output_text
    assert messages[2][:2] == messages[1][:2]


async def test_a_session_of_the_callers_own_stays(client: Client, running: Live) -> None:
    headers = {"x-session-id": "mine"}
    first = await say(client, "Hello", extra_headers=headers)
    await say(client, "And then?", previous_response_id=first.id)
    assert {trace.session_id for trace in await traces(running)} == {"mine"}


async def test_what_is_not_to_be_kept_is_not(client: Client) -> None:
    first = await say(client, "Hello")
    second = await say(client, "And then?", previous_response_id=first.id, store=False)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(second.id)
    with pytest.raises(openai.NotFoundError):
        await say(client, "More", previous_response_id=second.id)


async def test_a_deleted_response_is_gone(client: Client) -> None:
    first = await say(client, "Hello")
    second = await say(client, "And then?", previous_response_id=first.id)
    await client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError, match="was deleted"):
        await say(client, "More", previous_response_id=second.id)


async def test_input_items_are_listed_in_pages(client: Client) -> None:
    given: list[Any] = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "three"}]},
    ]
    made = await client.responses.create(model="sim", input=given, max_output_tokens=5)
    listed = [item async for item in client.responses.input_items.list(made.id, limit=2)]
    texts = [item.to_dict()["content"][0]["text"] for item in listed]  # type: ignore[index]
    assert texts == ["three", "two", "one"]
    oldest = await client.responses.input_items.list(made.id, order="asc", limit=1)
    assert oldest.has_more
    assert oldest.data[0].id == listed[-1].id


async def test_an_item_can_be_referred_to(client: Client, running: Live) -> None:
    first = await say(client, "Hello")
    item = first.output[0].id
    given: list[Any] = [{"type": "item_reference", "id": item}, {"role": "user", "content": "So?"}]
    await client.responses.create(model="sim", input=given, max_output_tokens=5)
    messages = messages_of((await traces(running))[1])
    assert messages[0] == {"role": "assistant", "content": first.output_text}


async def test_conversations_hold_their_items(client: Client, running: Live) -> None:
    begun: Any = [{"type": "message", "role": "user", "content": "My name is Ada."}]
    made = await client.conversations.create(items=begun, metadata={"a": "b"})
    assert made.metadata == {"a": "b"}
    response = await say(client, "Who am I?", conversation=made.id)
    assert response.conversation.id == made.id
    await say(client, "Sure?", conversation={"id": made.id})
    [first, second] = await traces(running)
    assert first.session_id == second.session_id == made.id
    assert [one["role"] for one in messages_of(second)] == [
        "user", "user", "assistant", "user",
    ]  # fmt: skip
    listed = [item async for item in client.conversations.items.list(made.id, order="asc")]
    assert len(listed) == 5
    shown = await client.conversations.items.retrieve(listed[0].id or "", conversation_id=made.id)
    assert shown.to_dict() == listed[0].to_dict()
    more: Any = [{"type": "message", "role": "user", "content": "More"}]
    added = await client.conversations.items.create(made.id, items=more)
    await client.conversations.items.delete(added.data[0].id or "", conversation_id=made.id)
    changed = await client.conversations.update(made.id, metadata={"c": "d"})
    assert (await client.conversations.retrieve(made.id)).metadata == changed.metadata
    gone = await client.conversations.delete(made.id)
    assert gone.deleted
    with pytest.raises(openai.NotFoundError):
        await client.conversations.retrieve(made.id)


async def test_tools_go_through_turns(client: Client, running: Live) -> None:
    given: list[Any] = [
        {"role": "user", "content": "Weather?"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    ]
    first = await client.responses.create(model="sim", input=given, max_output_tokens=5)
    output: list[Any] = [{"type": "function_call_output", "call_id": "c", "output": "cold"}]
    await client.responses.create(
        model="sim", input=output, previous_response_id=first.id, max_output_tokens=5
    )
    messages = messages_of((await traces(running))[1])
    assert [one["role"] for one in messages] == ["user", "assistant", "tool"]
    assert messages[1]["content"] == first.output_text


@pytest.mark.parametrize(
    ("query", "param"),
    [("limit=0", "limit"), ("limit=x", "limit"), ("order=up", "order"), ("stream=true", "stream")],
)
async def test_wrong_queries_are_told(
    client: Client, running: Live, query: str, param: str
) -> None:
    made = await say(client, "Hello")
    place = "" if param == "stream" else "/input_items"
    answer = await running.client.get(f"/v1/responses/{made.id}{place}?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


async def test_a_caller_that_leaves_at_the_last_event_has_had_all(running: Live) -> None:
    """As codex does: it closes the connection at `response.completed`, before the body's end."""
    body = {"model": "sim", "input": "Hello", "stream": True, "max_output_tokens": 5}
    text = msgspec.json.encode(body)
    head = b"POST /v1/responses HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    host, _, port = running.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(head + b"content-length: %d\r\n\r\n%b" % (len(text), text))
    got = await reader.readuntil(b"event: response.completed")
    writer.transport.abort()
    assert got.startswith(b"HTTP/1.1 200")
    [trace] = await traces(running)
    assert (trace.verdict, trace.reasons) == ("COMPLETE", [])
    found = await running.client.get(f"/v1/responses/{trace.session_id}")
    assert found.json()["status"] == "incomplete"
