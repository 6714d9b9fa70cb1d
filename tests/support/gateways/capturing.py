"""Gateways that capture, and calls for them to capture."""

from pathlib import Path
from typing import Any

import httpx

from gateway.config import StorageSettings
from gateway.testing import MESSAGES, GatewayFor, Live

CAPTURE = "gateway_plugins.trace_capture:TraceCapture"


def chat(content: str = "Hello", **fields: object) -> dict[str, Any]:
    messages = [{**MESSAGES[0], "content": content}]
    return {"model": "sim", "messages": messages, "max_tokens": 3, **fields}


async def capturing(gateway_for: GatewayFor, folder: Path, *plugins: Any, **settings: Any) -> Live:
    """A gateway that captures into a file of the folder."""
    db_path = str(folder / "traces.db")
    return await gateway_for(
        "sessions", CAPTURE, *plugins, storage=StorageSettings(path=db_path), **settings
    )


async def call(live: Live, session_id: str, **fields: Any) -> httpx.Response:
    """A chat of that session."""
    answer = await live.client.post(
        f"/sessions/{session_id}/v1/chat/completions", json=chat(**fields)
    )
    assert answer.status_code == 200, answer.text
    return answer
