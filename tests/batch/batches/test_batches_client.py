"""The `openai` client, unmodified: it uploads a file, creates a batch, polls and reads results."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest
from openai import AsyncOpenAI
from openai.types import Batch

from gateway.testing import GatewayFor

PATIENCE = 20.0
CHAT = "/v1/chat/completions"
OVER = ("failed", "completed", "expired", "cancelled")


@pytest.fixture
async def client(gateway_for: GatewayFor) -> AsyncIterator[AsyncOpenAI]:
    live = await gateway_for("batch")
    async with AsyncOpenAI(base_url=f"{live.url}/v1", api_key="unused", max_retries=0) as opened:
        yield opened


def body(number: int, **more: object) -> dict[str, Any]:
    text = f"Say {number}"
    messages = [{"role": "user", "content": text}]
    return {"model": "sim", "messages": messages, "seed": number, "max_tokens": 8, **more}


def line(custom_id: str, body: Mapping[str, object], url: str = CHAT) -> bytes:
    members = {"custom_id": custom_id, "method": "POST", "url": url, "body": body}
    return json.dumps(members).encode() + b"\n"


async def created(client: AsyncOpenAI, *lines: bytes, endpoint: Any = CHAT, **more: Any) -> Batch:
    file = await client.files.create(file=b"".join(lines), purpose="batch")
    await client.files.wait_for_processing(file.id)
    return await client.batches.create(
        input_file_id=file.id, endpoint=endpoint, completion_window="24h", **more
    )


async def ended(client: AsyncOpenAI, batch: Batch) -> Batch:
    async with asyncio.timeout(PATIENCE):
        while batch.status not in OVER:
            await asyncio.sleep(0.05)
            batch = await client.batches.retrieve(batch.id)
    return batch


async def results(client: AsyncOpenAI, file_id: str | None) -> Sequence[Any]:
    if file_id is None:
        return []
    content = await client.files.content(file_id)
    return [json.loads(one) for one in content.text.splitlines()]


async def test_batch_gives_the_answers_that_live_calls_get(client: AsyncOpenAI) -> None:
    """Fault 4.8."""
    bodies = [body(number) for number in range(5)]
    live = [await client.chat.completions.create(**one) for one in bodies]
    batch = await created(client, *(line(f"id {n}", one) for n, one in enumerate(bodies)))
    assert batch.status == "validating"
    batch = await ended(client, batch)
    assert batch.status == "completed"
    assert batch.error_file_id is None
    got = await results(client, batch.output_file_id)
    assert [one["custom_id"] for one in got] == [f"id {n}" for n in range(5)]
    for one, answer in zip(got, live, strict=True):
        assert one["error"] is None
        assert one["response"]["status_code"] == 200
        choices = answer.model_dump()["choices"]
        assert (
            one["response"]["body"]["choices"][0]["message"]["content"]
            == (choices[0]["message"]["content"])
        )
