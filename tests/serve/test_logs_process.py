"""What a real `gateway serve` writes on standard error, whoever it is that speaks."""

import json
import signal
from pathlib import Path
from typing import Any

import support.plugins.breaking_watcher as noisy
from support.gateways.serving_process import serving

from gateway.cli import NO_WORKER

NOISY = f"{Path(noisy.__file__)}:Noisy"

SAID = [
    ("gateway", NO_WORKER, None),
    ("asyncio", "Exception in callback", "ValueError"),
    ("asyncio", "Task exception was never retrieved", "ValueError"),
    ("gateway", "an exception in Undeletable.__del__ had nowhere to go", "ValueError"),
    ("gateway", "the thread noise ended by an error", "ValueError"),
    ("gateway", "the gateway ends by an error", "ValueError"),
    ("noisy", "it broke: ValueError", None),
]


async def test_serve_logs_only_json_without_the_text_of_errors() -> None:
    async with serving("", "--plugin", NOISY, storage__path=":memory:") as process:
        process.kill(signal.SIGTERM)
        assert await process.ended() == 1
    said = process.log.decode()
    assert noisy.WORDS not in said
    lines: list[dict[str, Any]] = [json.loads(line) for line in said.splitlines()]
    told = [(line["logger"], line["message"], _first_error(line)) for line in lines]
    assert [one for one in SAID if one not in told] == []
    assert any(line["message"].startswith("UserWarning at ") for line in lines)
    assert any(line["message"].startswith("a record cannot be written") for line in lines)
    assert any(line["logger"] == "uvicorn.error" for line in lines)


def _first_error(line: dict[str, Any]) -> str | None:
    return next((error["type"] for error in line.get("errors", [])), None)
