"""What a batch is created for, and what is refused: each with the member that is at fault."""

import json
from typing import Any

import httpx
import openai
import pytest
from support.batch.batches import CHAT, body, created, line, lines, mistakes, over, run
from support.batch.files import client_of
from support.records.run_items import count, quick

from gateway.testing import GatewayFor, Live, entry

LONG = "x" * 513


async def uploaded(live: Live, content: bytes = b"", purpose: Any = "batch") -> str:
    async with client_of(live) as client:
        text = content or b"".join(lines(1))
        return (await client.files.create(file=text, purpose=purpose)).id


async def ask(live: Live, headers: dict[str, str] | None = None, **members: Any) -> httpx.Response:
    wanted = {"endpoint": CHAT, "completion_window": "24h", **members}
    given = {name: value for name, value in wanted.items() if value is not ...}
    return await live.client.post("/v1/batches", json=given, headers=headers)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"endpoint": ...}, "endpoint"),
    ({"endpoint": 5}, "endpoint"),
    ({"endpoint": "/v1/chat/completion"}, "endpoint"),
    ({"endpoint": "/v1/chat/completions?x=1"}, "endpoint"),
    ({"endpoint": "/v1/../admin"}, "endpoint"),
    ({"endpoint": "/v1/files"}, "endpoint"),
    ({"endpoint": "/v1/batches"}, "endpoint"),
    ({"endpoint": "/v1/models"}, "endpoint"),
    ({"endpoint": "/v1/responses/resp_1"}, "endpoint"),
    ({"endpoint": "/admin/workers"}, "endpoint"),
    ({"endpoint": ""}, "endpoint"),
    ({"completion_window": ...}, "completion_window"),
    ({"completion_window": "0h"}, "completion_window"),
    ({"completion_window": "169h"}, "completion_window"),
    ({"completion_window": "1d"}, "completion_window"),
    ({"completion_window": "24"}, "completion_window"),
    ({"completion_window": "٢h"}, "completion_window"),
    ({"completion_window": "9" * 5_000 + "h"}, "completion_window"),
    ({"metadata": []}, "metadata"),
    ({"metadata": {"a": 1}}, "metadata"),
    ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
    ({"metadata": {"n" * 65: ""}}, "metadata"),
    ({"metadata": {"a": LONG}}, "metadata.a"),
    ({"metadata": {"priority": "high"}}, "metadata.priority"),
    ({"metadata": {"priority": "1.5"}}, "metadata.priority"),
    ({"output_expires_after": 5}, "output_expires_after"),
    ({"output_expires_after": {"anchor": "now", "seconds": 3_600}}, "output_expires_after"),
    ({"output_expires_after": {"anchor": "created_at", "seconds": 3_599}}, "output_expires_after"),
    ({"input_file_id": ...}, "input_file_id"),
    ({"input_file_id": None}, "input_file_id"),
]


@pytest.mark.parametrize(("members", "param"), REFUSED, ids=lambda one: str(one)[:50])
async def test_request_that_no_batch_can_be_made_of_is_refused(
    gateway_for: GatewayFor, members: dict[str, Any], param: str
) -> None:
    live = await gateway_for("batch")
    answer = await ask(live, **{"input_file_id": await uploaded(live), **members})
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (400, "invalid_request_error")
    assert error["param"].startswith(param)
    assert len(error["message"]) < 500
    assert await count(live, "batches") == 0


async def test_unknown_file_is_404(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch")
    answer = await ask(live, input_file_id="file-unknown")
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "input_file_id")


async def test_file_for_another_purpose_is_refused(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch")
    answer = await ask(live, input_file_id=await uploaded(live, purpose="user_data"))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "input_file_id")


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff"])
async def test_body_that_is_no_object_is_refused(gateway_for: GatewayFor, text: bytes) -> None:
    live = await gateway_for("batch")
    answer = await live.client.post("/v1/batches", content=text)
    assert answer.status_code == 400


async def test_metadata_may_be_null_and_unknown_members_are_ignored(
    gateway_for: GatewayFor,
) -> None:
    """So does litellm send it."""
    live = await gateway_for("batch")
    file = await uploaded(live)
    answer = await ask(live, input_file_id=file, metadata=None, output_expires_after=None, x=1)
    assert (answer.status_code, answer.json()["metadata"]) == (200, None)


async def test_metadata_within_the_bounds_comes_back(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch")
    metadata = {f"{number:064}": "é" * 512 for number in range(16)}
    answer = await ask(live, input_file_id=await uploaded(live), metadata=metadata)
    assert answer.json()["metadata"] == metadata


@pytest.mark.parametrize(
    ("text", "priority"), [("7", 7), ("-3", -3), ("999999", 100), ("-101", -100), (None, 1)]
)
async def test_priority_is_that_of_the_metadata_within_the_bounds(
    gateway_for: GatewayFor, text: str | None, priority: int
) -> None:
    live = await gateway_for("batch")
    async with client_of(live) as client:
        metadata = {} if text is None else {"priority": text}
        await run(client, *lines(1), metadata=metadata)
    assert await count(live, "batch_lanes", f"priority = {priority}") == 1
    assert await count(live, "batch_lanes") == 1


async def test_repeated_creation_returns_the_batch_of_the_first(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch")
    file = await uploaded(live)
    first = (await ask(live, {"x-stainless-retry-count": "0"}, input_file_id=file)).json()
    again = {"x-stainless-retry-count": "1"}
    assert (await ask(live, again, input_file_id=file)).json()["id"] == first["id"]
    other = (await ask(live, again, input_file_id=file, metadata={"a": "b"})).json()
    assert other["id"] != first["id"]
    second = (await ask(live, {"x-stainless-retry-count": "0"}, input_file_id=file)).json()
    assert second["id"] != first["id"]
    assert (await ask(live, again, input_file_id=file)).json()["id"] == second["id"]
    old = "UPDATE batches SET created = created - 601"
    await live.gateway.storage.write(lambda db: db.execute(old))
    late = (await ask(live, again, input_file_id=file)).json()
    assert late["id"] not in (first["id"], second["id"])


async def test_file_with_more_lines_than_the_queue_has_room_for_is_429(
    gateway_for: GatewayFor,
) -> None:
    live = await gateway_for(entry("batch", max_queued_per_key=3), workers=[])
    async with client_of(live) as client:
        await over(client, await created(client, *lines(2)), "in_progress")
        with pytest.raises(openai.RateLimitError, match="max_queued_per_key"):
            await created(client, *lines(2))
        await created(client, *lines(1))


async def test_lines_that_are_not_queued_yet_take_room_from_other_batches(
    gateway_for: GatewayFor,
) -> None:
    live = await gateway_for(entry("batch", max_queued=3), workers=[])
    async with client_of(live) as client:
        file = await client.files.create(file=b"".join(lines(2)), purpose="batch")
        answers = [await ask(live, input_file_id=file.id) for _ in range(2)]
        assert [one.status_code for one in answers] == [200, 429]
        assert json.loads(answers[1].content)["error"]["type"] == "rate_limit_error"


async def test_line_of_the_maximal_length_is_a_request_and_a_longer_one_is_not(
    gateway_for: GatewayFor,
) -> None:
    most = 20_000
    live = await gateway_for(quick(max_body_bytes=most))
    short = line("a", body(1, user=""))
    full = line("a", body(1, user="x" * (most + 1 - len(short))))
    assert len(full) == most + len(b"\n")
    longer = line("b", body(1, user="x" * (most + 2 - len(short))))
    async with client_of(live) as client:
        assert (await run(client, full)).status == "completed"
        failed = await run(client, full, longer)
    assert mistakes(failed) == [("invalid_request", 2, None)]


async def test_byte_order_mark_and_windows_line_ends_are_accepted(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch")
    text = b"\xef\xbb\xbf" + b"".join(lines(3)).replace(b"\n", b"\r\n") + b"\r\n"
    async with client_of(live) as client:
        batch = await run(client, text)
    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert batch.request_counts.completed == 3


async def test_line_too_many_fails_the_batch(gateway_for: GatewayFor) -> None:
    live = await gateway_for(entry("batch", max_lines=3), workers=[])
    async with client_of(live) as client:
        batch = await run(client, *lines(4))
        assert mistakes(batch) == [("too_many_tasks", 4, None)]
        assert await count(live, "batch_items") == 0
        assert await count(live, "batches", "reserved > 0") == 0
