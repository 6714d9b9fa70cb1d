"""The `openai` client, unmodified: it uploads a file, creates a batch, polls and reads results."""

import json
import time

import openai
import pytest
from support.batch.batches import (
    CHAT,
    answers,
    body,
    created,
    ids,
    line,
    lines,
    mistakes,
    over,
    results,
    run,
)
from support.batch.files import client_of, contents
from support.records.run_items import count, quick

from gateway.testing import GatewayFor, ScriptedWorker, answer_of


async def test_fault_4_8_output_has_the_answers_that_live_calls_get(
    gateway_for: GatewayFor,
) -> None:
    live = await gateway_for("batch")
    async with client_of(live) as client:
        bodies = [body(number, logprobs=True) for number in range(5)]
        spoken = [await client.chat.completions.create(**one) for one in bodies]
        file = await client.files.create(
            file=b"".join(line(f"id {n}", one) for n, one in enumerate(bodies)), purpose="batch"
        )
        await client.files.wait_for_processing(file.id)
        batch = await client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        assert batch.status == "validating"
        batch = await over(client, batch)
        got, failed = await results(client, batch)
    assert (batch.status, failed, ids(got)) == ("completed", [], [f"id {n}" for n in range(5)])
    for one, answer in zip(got, spoken, strict=True):
        assert (one["error"], one["response"]["status_code"]) == (None, 200)
        wanted = json.loads(answer.model_dump_json(exclude_unset=True))
        said = one["response"]["body"]
        for name in ("id", "created"):
            del wanted[name], said[name]
        assert said == wanted


async def test_batch_has_the_members_that_clients_read(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch")
    async with client_of(live) as client:
        before = int(time.time())
        made = await created(client, *lines(3), metadata={"name": "x"}, completion_window="2h")
        batch = await over(client, made)
        assert await client.batches.retrieve(batch.id) == batch
        output = await client.files.retrieve(batch.output_file_id or "")
        tokens = [one["response"]["body"]["usage"] for one in (await results(client, batch))[0]]
    assert batch.id.startswith("batch_")
    assert (batch.object, batch.endpoint, batch.model) == ("batch", CHAT, "sim")
    assert (batch.completion_window, batch.metadata) == ("2h", {"name": "x"})
    assert batch.expires_at == batch.created_at + 7_200
    steps = [batch.created_at, batch.in_progress_at, batch.finalizing_at, batch.completed_at]
    times = [one or 0 for one in steps]
    assert before <= times[0]
    assert times == sorted(times)
    assert batch.failed_at is batch.expired_at is batch.cancelling_at is batch.cancelled_at is None
    assert batch.errors is None
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 3, "completed": 3, "failed": 0}
    assert batch.usage is not None
    assert batch.usage.input_tokens == sum(one["prompt_tokens"] for one in tokens)
    assert batch.usage.output_tokens == sum(one["completion_tokens"] for one in tokens)
    assert batch.usage.total_tokens == sum(one["total_tokens"] for one in tokens)
    assert (output.purpose, output.filename) == ("batch_output", f"{batch.id}_output.jsonl")
    assert output.expires_at == pytest.approx(time.time() + 30 * 86_400, abs=60)


async def test_requests_that_the_engine_refuses_are_in_the_error_file(
    gateway_for: GatewayFor,
) -> None:
    live = await gateway_for(quick())
    bad = line("bad", body(9, max_tokens="many"))
    async with client_of(live) as client:
        batch = await run(client, *lines(2), bad, line("last", body(3)))
        good, [failed] = await results(client, batch)
    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (3, 1)
    assert ids(good) == ["id 0", "id 1", "last"]
    assert (failed["custom_id"], failed["error"]) == ("bad", None)
    assert failed["response"]["status_code"] == 400
    assert "max_tokens" in failed["response"]["body"]["error"]["message"]
    assert failed["response"]["request_id"]
    assert await count(live, "batch_items", "attempts = 1") == 4


async def test_fault_4_2_batch_without_success_has_no_output_file(gateway_for: GatewayFor) -> None:
    live = await gateway_for(quick())
    async with client_of(live) as client:
        batch = await run(client, line("bad", body(1, max_tokens="many")))
        assert (batch.status, batch.output_file_id) == ("completed", None)
        assert ids(await answers(client, batch.error_file_id)) == ["bad"]
        assert len([file async for file in client.files.list(purpose="batch_output")]) == 1


async def test_invalid_file_fails_the_batch_and_names_each_bad_line(
    gateway_for: GatewayFor,
) -> None:
    live = await gateway_for("batch")
    text = [line("a", body(1)), b"{\n", line("a", body(2)), line("b", body(3, stream=True))]
    async with client_of(live) as client:
        batch = await run(client, *text)
    assert batch.status == "failed"
    assert batch.failed_at is not None
    assert mistakes(batch) == [
        ("invalid_json_line", 2, None),
        ("duplicate_custom_id", 3, "custom_id"),
        ("invalid_request", 4, "body.stream"),
    ]
    assert batch.output_file_id is batch.error_file_id is None
    assert batch.request_counts is not None
    assert batch.request_counts.total == 0
    assert await count(live, "batch_items") == 0


async def test_batches_are_listed_page_by_page_the_newest_first(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch")
    async with client_of(live) as client:
        made = [(await created(client, line("a", body(n)))).id for n in range(5)]
        assert [one.id async for one in client.batches.list(limit=2)] == made[::-1]
        page = await client.batches.list(limit=2, after=made[2])
        assert ([one.id for one in page.data], page.has_more) == ([made[1], made[0]], False)
        raw = (await live.client.get("/v1/batches", params={"limit": 2})).json()
        assert (raw["object"], raw["has_more"]) == ("list", True)
        assert (raw["first_id"], raw["last_id"]) == (made[4], made[3])
        with pytest.raises(openai.NotFoundError):
            await client.batches.list(after="batch_unknown")
        for limit in (0, 101):
            with pytest.raises(openai.BadRequestError, match="limit"):
                await client.batches.list(limit=limit)


async def test_empty_list_of_batches_has_no_more(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch")
    assert (await live.client.get("/v1/batches")).json() == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }


@pytest.mark.parametrize("endpoint", ["/v1/embeddings", "/v1/responses", "/v1/rerank", "/tokenize"])
async def test_batch_takes_each_endpoint_that_workers_serve(
    gateway_for: GatewayFor, endpoint: str
) -> None:
    async with ScriptedWorker(answer_of(b'{"data": [1.5]}')) as worker:
        live = await gateway_for("batch", workers=[worker.url])
        async with client_of(live) as client:
            sent = {"model": "m", "input": ["x", "y"]}
            batch = await run(client, line("a", sent, endpoint), endpoint=endpoint)
            [got], _ = await results(client, batch)
        assert got["response"]["body"] == {"data": [1.5]}
        [request] = worker.requests
        assert request.startswith(b"POST %b HTTP/1.1" % endpoint.encode())
        assert request.endswith(json.dumps(sent).encode())


async def test_deleted_input_file_is_read_to_its_end(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch")
    async with client_of(live) as client:
        batch = await created(client, *lines(20))
        await client.files.delete(batch.input_file_id)
        batch = await over(client, batch)
        assert len((await results(client, batch))[0]) == 20
        left = [file.id async for file in client.files.list()]
    assert left == [batch.output_file_id]
    assert [path.name for path in contents(live)] == left


async def test_files_of_results_expire_when_their_batch_says(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch")
    kept = {"anchor": "created_at", "seconds": 3_600}
    async with client_of(live) as client:
        batch = await run(client, *lines(1), output_expires_after=kept)
        file = await client.files.retrieve(batch.output_file_id or "")
    assert file.expires_at == file.created_at + 3_600


async def test_retried_batch_of_the_same_custom_ids_runs(gateway_for: GatewayFor) -> None:
    """Some clients send the lines of the error file again."""
    live = await gateway_for("batch")
    async with client_of(live) as client:
        first, second = await run(client, *lines(2)), await run(client, *lines(2))
        assert first.id != second.id
        assert ids((await results(client, second))[0]) == ["id 0", "id 1"]
