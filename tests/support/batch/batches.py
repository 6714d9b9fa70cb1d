"""Batches as callers make them: lines of an input file, and a batch that is polled to its end."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from openai import AsyncOpenAI
from openai.types import Batch
from support.plugins.recording_plugin import PATIENCE

CHAT = "/v1/chat/completions"

OVER = ("failed", "completed", "expired", "cancelled")

POLL = 0.02
"""Seconds between two looks at a batch."""

Answer = dict[str, Any]
"""A line of a file of results."""


def body(number: int, **more: object) -> dict[str, Any]:
    """The request of a short chat, which has the same response each time."""
    messages = [{"role": "user", "content": f"Say {number}"}]
    return {"model": "sim", "messages": messages, "seed": number, "max_tokens": 8, **more}


def line(custom_id: str, body: Mapping[str, object], url: str = CHAT) -> bytes:
    members = {"custom_id": custom_id, "method": "POST", "url": url, "body": body}
    return json.dumps(members).encode() + b"\n"


def lines(count: int, **more: object) -> list[bytes]:
    """Short chats, with the custom ids "id 0", "id 1" and so on."""
    return [line(f"id {number}", body(number, **more)) for number in range(count)]


def ids(answers: Sequence[Answer]) -> list[str]:
    return [one["custom_id"] for one in answers]


async def created(client: AsyncOpenAI, *lines: bytes, endpoint: Any = CHAT, **more: Any) -> Batch:
    """Upload a file, and create a batch for it."""
    file = await client.files.create(file=b"".join(lines), purpose="batch")
    return await client.batches.create(
        input_file_id=file.id, endpoint=endpoint, **{"completion_window": "24h", **more}
    )


async def over(
    client: AsyncOpenAI, batch: Batch, *status: str, patience: float = PATIENCE
) -> Batch:
    """Poll a batch until it has ended, or has one of these statuses. Raises TimeoutError."""
    async with asyncio.timeout(patience):
        while batch.status not in (status or OVER):
            await asyncio.sleep(POLL)
            batch = await client.batches.retrieve(batch.id)
    return batch


async def run(client: AsyncOpenAI, *lines: bytes, **more: Any) -> Batch:
    return await over(client, await created(client, *lines, **more))


async def answers(client: AsyncOpenAI, file_id: str | None) -> list[Answer]:
    """The lines of a file of results; none if there is no file."""
    if file_id is None:
        return []
    content = (await client.files.content(file_id)).content
    assert content.endswith(b"\n")
    return [json.loads(one) for one in content.splitlines()]


async def results(client: AsyncOpenAI, batch: Batch) -> tuple[list[Answer], list[Answer]]:
    """The lines of the output file and of the error file."""
    output = await answers(client, batch.output_file_id)
    return output, await answers(client, batch.error_file_id)


def mistakes(batch: Batch) -> list[tuple[str | None, int | None, str | None]]:
    """What is wrong with the input file of a batch: code, line and member."""
    assert batch.errors is not None
    return [(one.code, one.line, one.param) for one in batch.errors.data or ()]
