"""Fault 4.6: large batches at flat memory, in a gateway of its own process."""

import base64
import random
from pathlib import Path

import pytest
from openai import AsyncOpenAI
from support.batch.batches import answers, body, ids, line, over
from support.gateways.serving_process import serving

from gateway.testing import ScriptedWorker, answer_of

MIB = 1024 * 1024
SIZE = 40_000
"""Bytes of a request, and of a response, which do not get much shorter by compression."""

MOST = 32 * MIB
"""How much more memory the process may take meanwhile: caches of the database, items in flight."""


@pytest.mark.parametrize("count", [700, pytest.param(5_000, marks=pytest.mark.slow)])
@pytest.mark.timeout(600)
async def test_fault_4_6_batch_runs_at_flat_memory(tmp_path: Path, count: int) -> None:
    noise = random.Random(1)
    file = tmp_path / "input.jsonl"
    with file.open("wb") as opened:
        for number in range(count):
            text = base64.b64encode(noise.randbytes(SIZE * 3 // 4)).decode()
            opened.write(line(f"id {number}", body(number, user=text)))
    said = b'{"text": "%b"}' % base64.b64encode(noise.randbytes(SIZE * 3 // 4))
    storage = str(tmp_path / "gateway.db")
    async with (
        ScriptedWorker(answer_of(said)) as worker,
        serving(worker.url, "--plugin", "batch", storage__path=storage) as process,
        AsyncOpenAI(base_url=f"{process.url}/v1", api_key="none") as client,
    ):
        await client.batches.list()
        before = process.memory()
        process.forget_peak()
        uploaded = await client.files.create(file=file, purpose="batch")
        batch = await client.batches.create(
            input_file_id=uploaded.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        batch = await over(client, batch, patience=500)
        grown = process.memory("VmHWM") - before
        good = await answers(client, batch.output_file_id)
    assert batch.status == "completed"
    assert ids(good) == [f"id {number}" for number in range(count)]
    assert grown < MOST, f"{grown / MIB:.1f} MiB for {count * SIZE / MIB:.0f} MiB of requests"
