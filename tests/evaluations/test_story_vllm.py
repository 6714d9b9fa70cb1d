"""From an upload to scores with a real vLLM: `VLLM_HOME=DIR pytest -m vllm tests/evaluations`.

DIR has `venv/bin/vllm`, and two models in `model` and `model-b`, as small as they like.
"""

import asyncio
import tarfile
from pathlib import Path

import pytest
import zstandard
from support.runtime.serving_box import (
    COLD,
    OTHER,
    OWN,
    Box,
    chat_body,
    engines,
    serving_box,
    settings,
    text_of,
)

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1_800)]

BATCH = "/v1/batch/chat/completions"


def pack(folder: Path, file: Path) -> None:
    with zstandard.open(file, "wb") as packed:
        with tarfile.open(fileobj=packed, mode="w|") as archive:
            archive.add(folder, "tiny")


async def queued(box: Box, model: str) -> str:
    """Submit an item; return where its state is read."""
    answer = await box.client.post(BATCH, json=chat_body(model, "Hello", 16))
    assert answer.status_code == 202, answer.text
    return str(answer.json()["status_url"])


async def text_of_item(box: Box, path: str) -> str:
    """Wait for the end of an item as its callers do; return its text."""
    async with asyncio.timeout(COLD):
        while (found := (await box.client.get(f"{path}?wait=50")).json())["status"] != "completed":
            assert found["status"] in ("queued", "running"), found
    return text_of(found)


async def answered(box: Box, model: str) -> str:
    answer = await box.chat(model)
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == model
    return text_of(answer.json())


async def test_uploaded_model_is_loaded_answers_gives_way_and_is_evaluated(tmp_path: Path) -> None:
    home = engines()
    archive = tmp_path / "tiny.tar.zst"
    pack(home / "model", archive)
    async with serving_box(tmp_path, settings(tmp_path, home)) as box:
        early = asyncio.create_task(answered(box, OWN))  # it waits for the upload
        done = await box.command("upload", str(archive), "--model", OWN)
        assert done == (0, f"{OWN} is installed\n", "")
        text = await early
        assert await text_of_item(box, await queued(box, OWN)) == text
        item = await queued(box, OTHER)  # the switch that it forces, and the way back
        other = await text_of_item(box, item)
        assert other != text
        assert await answered(box, OWN) == text
        assert await box.loads() == [f"hot({OWN})", f"hot({OTHER})", f"hot({OWN})"]
        status, out, error = await box.command(
            *("eval", "submit", OWN, "example", "--arg", "max_prompts=8")
        )
        assert status == 0, error
        assert "example: completed, 8 of 8\n  accuracy" in out
