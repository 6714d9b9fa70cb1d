"""A response in the background of one process, asked for at another one, and after a kill."""

import asyncio
import os
import re
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from stored_responses.conftest import STORED
from support.callers.raw_client import RawClient, head_of
from support.gateways.serving_processes import a_client_of_each, several, who_answers
from support.records.translated.responses import events_of

from gateway.simulator import Simulator

Json = Any

JSON = (b"content-type", b"application/json")
SLOW = (b"x-sim-fault", b"slow:0.05")

pytestmark = pytest.mark.slow


def request(**fields: object) -> bytes:
    body = {"model": "sim", "input": "Hello", "background": True, "max_output_tokens": 60}
    return msgspec.json.encode({**body, **fields})


async def show(client: RawClient, id_: str) -> Json:
    answer = await client.ask("GET", f"/v1/responses/{id_}")
    assert answer.status == 200, answer.body
    return msgspec.json.decode(answer.body)


async def begin(client: RawClient, **fields: object) -> str:
    answer = await client.ask("POST", "/v1/responses", [JSON, SLOW], request(**fields))
    assert answer.status == 200, answer.body
    return str(msgspec.json.decode(answer.body)["id"])


async def begin_stream(client: RawClient) -> str:
    body = request(stream=True)
    lines = [JSON, SLOW, (b"content-length", b"%d" % len(body))]
    await client.send(head_of("POST", "/v1/responses", lines) + body)
    begun = await client.reader.readuntil(b"event: response.in_progress")
    found = re.search(rb'"id":"(resp_[0-9a-f]{32})"', begun)
    assert found is not None
    return found[1].decode()


async def test_another_process_follows_a_response_and_cancels_one(tmp_path: Path) -> None:
    async with (
        Simulator() as worker,
        several(tmp_path / "g.yaml", 2, STORED, workers=[worker.url]) as process,
        a_client_of_each(process, 2) as [one, two],
    ):
        id_ = await begin(one)
        assert (await show(two, id_))["status"] in ("queued", "in_progress")
        cancelled = await two.ask("POST", f"/v1/responses/{id_}/cancel")
        assert msgspec.json.decode(cancelled.body)["status"] == "cancelled"
        id_ = await begin_stream(one)
        followed = await two.ask("GET", f"/v1/responses/{id_}?stream=true&starting_after=2")
        events = events_of(followed.body)
        last = events[-1]["sequence_number"]
        assert [event["sequence_number"] for event in events] == list(range(3, last + 1))
        assert events[-1]["type"] == "response.completed"
        assert events[-1]["response"] == await show(two, id_)


async def test_a_response_of_a_killed_process_has_failed(tmp_path: Path) -> None:
    async with (
        Simulator() as worker,
        several(tmp_path / "g.yaml", 2, STORED, workers=[worker.url]) as process,
        a_client_of_each(process, 2) as [one, two],
    ):
        id_ = await begin(one, max_output_tokens=2_000)
        _, pid = await who_answers(one)
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(50):
            while (shown := await show(two, id_))["status"] != "failed":  # noqa: ASYNC110
                await asyncio.sleep(0.5)
        assert shown["error"]["code"] == "server_error"


async def test_a_key_runs_only_so_many_in_all_processes_together(tmp_path: Path) -> None:
    async with (
        Simulator() as worker,
        several(
            tmp_path / "g.yaml", 2, (STORED, {"max_background": 3}), workers=[worker.url]
        ) as process,
        a_client_of_each(process, 2) as clients,
    ):
        body = request(max_output_tokens=2_000)
        asked = [
            [await one.ask("POST", "/v1/responses", [JSON, SLOW], body) for one in clients]
            for _ in range(3)
        ]
        statuses = [answer.status for pair in asked for answer in pair]
        assert statuses == [200] * 3 + [429] * 3
        id_ = msgspec.json.decode(asked[0][0].body)["id"]
        await clients[1].ask("POST", f"/v1/responses/{id_}/cancel")
        again = await clients[1].ask("POST", "/v1/responses", [JSON, SLOW], body)
        assert again.status == 200
