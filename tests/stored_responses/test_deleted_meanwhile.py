"""What is deleted while a response runs that follows it, or that is it."""

import time

import openai
from gateway_plugins.stored_responses import rows
from gateway_plugins.stored_responses.options import Options
from gateway_plugins.stored_responses.upkeep import Upkeep

from gateway import Database
from gateway.testing import Live

Client = openai.AsyncOpenAI


def a_response(owner: str, id_: str, status: str = "completed", age: float = 0.0) -> rows.NewHolder:
    return rows.NewHolder(
        owner=owner,
        id=id_,
        kind="response",
        created=time.time() - age,
        session="s",
        body=b'{"id":"%b","object":"response","output":[]}' % id_.encode(),
        status=status,
    )


async def test_no_response_gets_the_number_of_a_deleted_one(running: Live) -> None:
    """A response that is stored later would follow the other key's."""
    storage = running.gateway.storage
    first = await storage.write(lambda db: rows.add(db, a_response("one", "resp_1")))
    await storage.write(lambda db: rows.delete(db, [first]))
    assert await storage.write(lambda db: rows.add(db, a_response("two", "resp_2"))) != first


async def test_a_conversation_deleted_meanwhile_gets_no_items(
    running: Live, client: Client
) -> None:
    talk = await client.conversations.create()
    asked = client.responses.create(
        model="sim",
        input="Hello",
        conversation=talk.id,
        stream=True,
        max_output_tokens=5,
        extra_headers={"x-sim-fault": "slow:0.1"},
    )
    async for event in await asked:
        if event.type == "response.created":
            await client.conversations.delete(talk.id)
    assert await running.gateway.storage.read(_lost) == []
    assert len((await client.responses.input_items.list(event.response.id)).data) == 1  # type: ignore[union-attr]


def _lost(db: Database) -> list[object]:
    query = "SELECT * FROM stored_items WHERE holder NOT IN (SELECT number FROM stored_holders)"
    return list(db.select(query))


async def test_a_response_that_runs_is_not_deleted(running: Live, client: Client) -> None:
    storage = running.gateway.storage
    await storage.write(lambda db: rows.add(db, a_response("", "resp_runs", "in_progress", age=9)))
    died = a_response("", "resp_died", "in_progress", age=rows.STALE + 1)
    await storage.write(lambda db: rows.add(db, died))
    made = await client.responses.create(model="sim", input="Hello", max_output_tokens=2)
    await Upkeep(storage, Options(max_responses=2)).clean(time.time())
    await Upkeep(storage, Options(keep=8)).clean(time.time())
    left = await storage.read(
        lambda db: {id_ for (id_,) in db.select("SELECT id FROM stored_holders")}
    )
    assert left == {"resp_runs", made.id}
