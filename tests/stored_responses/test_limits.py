"""What is kept belongs to a key, is bounded, and is told truly of processes that died."""

import time
from pathlib import Path
from typing import Any

import openai
import pytest
from gateway_plugins.stored_responses import rows
from gateway_plugins.stored_responses.options import Options
from gateway_plugins.stored_responses.upkeep import Upkeep
from stored_responses.conftest import STORED
from support.gateways.with_keys import KeysOnDisk, key, keyed

from gateway import Database
from gateway.config import StorageSettings
from gateway.testing import GatewayFor, Live

Client = openai.AsyncOpenAI


async def say(client: Client, words: str, **fields: Any) -> Any:
    return await client.responses.create(model="sim", input=words, max_output_tokens=2, **fields)


def client_of(running: Live, token: str) -> Client:
    return openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key=token, max_retries=0)


@pytest.mark.usefixtures("simulator")
async def test_another_key_finds_nothing(gateway_for: GatewayFor, tmp_path: Path) -> None:
    disk = KeysOnDisk(tmp_path / "keys.json")
    disk.write(key("gw-one", "one"), key("gw-two", "two"))
    storage = StorageSettings(path=str(tmp_path / "kept.db"))
    running = await keyed(gateway_for, disk, STORED, storage=storage)
    async with client_of(running, "gw-one") as one, client_of(running, "gw-two") as two:
        made = await say(one, "Hello")
        talk = await one.conversations.create()
        item: Any = [{"type": "item_reference", "id": made.output[0].id}]
        assert (await one.responses.retrieve(made.id)).id == made.id
        for asked in (
            two.responses.retrieve(made.id),
            two.responses.delete(made.id),
            two.responses.cancel(made.id),
            two.responses.input_items.list(made.id),
            two.conversations.retrieve(talk.id),
            two.conversations.items.list(talk.id),
            say(two, "More", previous_response_id=made.id),
            say(two, "More", conversation=talk.id),
            two.responses.create(model="sim", input=item),
        ):
            with pytest.raises(openai.NotFoundError):
                await asked


async def test_a_response_whose_process_died_has_failed(running: Live, client: Client) -> None:
    body = b'{"id":"resp_x","object":"response","status":"queued","output":[]}'
    new = rows.NewHolder(
        owner="",
        id="resp_x",
        kind="response",
        created=time.time() - rows.STALE - 1,
        session="s",
        body=body,
        status="queued",
        has_events=True,
    )
    await running.gateway.storage.write(lambda db: rows.add(db, new))
    found = await client.responses.retrieve("resp_x")
    assert found.status == "failed"
    assert found.error is not None
    assert [event async for event in await client.responses.retrieve("resp_x", stream=True)] == []
    await client.responses.delete("resp_x")


async def test_a_response_of_another_process_can_be_followed(running: Live, client: Client) -> None:
    storage = running.gateway.storage
    new = rows.NewHolder(
        owner="",
        id="resp_y",
        kind="response",
        created=time.time(),
        session="s",
        body=b'{"id":"resp_y","object":"response","status":"queued","output":[]}',
        status="queued",
        has_events=True,
    )
    number = await storage.write(lambda db: rows.add(db, new))
    events = [
        b'data: {"type":"response.output_text.delta","sequence_number":%d}\n\n' % at
        for at in range(5)
    ]
    await storage.write(lambda db: rows.add_events(db, number, 0, events[:3]))
    got = []
    async for event in await client.responses.retrieve("resp_y", stream=True, starting_after=0):
        got.append(event.sequence_number)
        if len(got) == 2:
            await storage.write(lambda db: _end(db, number, events[3:]))
    assert got == [1, 2, 3, 4]


def _end(db: Database, number: int, events: list[bytes]) -> None:
    rows.add_events(db, number, 3, events)
    rows.set_logged(db, number)


async def test_what_is_over_the_limits_is_deleted(running: Live, client: Client) -> None:
    first = await say(client, "one")
    other = await say(client, "two")
    second = await say(client, "three", previous_response_id=first.id)
    talk = await client.conversations.create()
    storage = running.gateway.storage
    await Upkeep(storage, Options(max_responses=2)).clean(time.time())
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(other.id)  # the others were used later
    assert (await client.responses.retrieve(first.id)).id == first.id
    assert (await client.conversations.retrieve(talk.id)).id == talk.id
    await Upkeep(storage, Options(keep=10)).clean(time.time() + 11)
    for gone in (client.responses.retrieve(second.id), client.conversations.retrieve(talk.id)):
        with pytest.raises(openai.NotFoundError):
            await gone
    assert await storage.read(_counts) == [0, 0, 0]


def _counts(db: Database) -> list[int]:
    tables = ("stored_holders", "stored_items", "stored_events")
    return [count for one in tables for (count,) in db.select(f"SELECT count(*) FROM {one}")]


async def test_a_history_has_only_so_many_items(running: Live, client: Client) -> None:
    first = await say(client, "one")
    [(number,)] = await running.gateway.storage.read(
        lambda db: list(db.select("SELECT number FROM stored_holders"))
    )
    holder = await running.gateway.storage.read(lambda db: rows.find(db, "", "response", first.id))
    assert holder is not None
    assert holder.number == number
    with pytest.raises(rows.HistoryGone, match="max_items"):
        await running.gateway.storage.read(lambda db: rows.history(db, holder, 1))
