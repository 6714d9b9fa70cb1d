"""Requests that cannot be read, that follow two things, and that refer to what is kept."""

from pathlib import Path
from typing import Any

import openai
import pytest
from stored_responses.conftest import STORED
from support.gateways.capturing import capturing
from support.workers.by_path import ByPath, said

from gateway.testing import GatewayFor, ScriptedWorker

Client = openai.AsyncOpenAI


async def say(client: Client, words: Any, **fields: Any) -> Any:
    return await client.responses.create(model="sim", input=words, max_output_tokens=2, **fields)


async def test_a_request_that_only_the_engine_can_read_is_passed_on(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    """Engines take numbers in strings."""
    engine = ByPath({"/v1/responses": said({"id": "resp_theirs"})})
    asked = {"model": "sim", "input": "Hello", "temperature": "0.5"}
    async with ScriptedWorker(engine.script) as worker:
        live = await capturing(gateway_for, tmp_path, STORED, workers=[worker.url])
        answer = await live.client.post("/v1/responses", json=asked)
    assert (answer.status_code, answer.json()) == (200, {"id": "resp_theirs"})
    assert engine.bodies["/v1/responses"] == [asked]


async def test_a_response_cannot_follow_two_things(client: Client) -> None:
    """One of the two histories would be lost."""
    first, talk = await say(client, "Hello"), await client.conversations.create()
    with pytest.raises(openai.BadRequestError, match="previous_response_id"):
        await say(client, "More", previous_response_id=first.id, conversation=talk.id)


async def test_what_is_not_kept_itself_may_refer_to_kept_items(client: Client) -> None:
    first = await say(client, "Hello")
    item = {"type": "item_reference", "id": first.output[0].id}
    more = [item, {"role": "user", "content": "And then?"}]
    assert (await say(client, more, store=False)).store is False


async def test_a_conversation_takes_no_items_that_no_turn_could_read(client: Client) -> None:
    items: Any = [{"type": "message", "role": "user", "content": 5}]
    with pytest.raises(openai.BadRequestError, match="content"):
        await client.conversations.create(items=items)
    talk = await client.conversations.create()
    with pytest.raises(openai.BadRequestError, match="content"):
        await client.conversations.items.create(talk.id, items=items)
    assert (await say(client, "Hello", conversation=talk.id)).status == "incomplete"
