"""Callers of the doors of the plugin `batch`, and workers that hold what they get."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from gateway import Call, Principal, hookimpl
from gateway.testing import Live, ScriptedConnection, ScriptedWorker, answer_of

COMPLETIONS = "/v1/batch/completions"
CHAT = "/v1/batch/chat/completions"
JOBS = "/v1/jobs"

PROMPT: dict[str, Any] = {"model": "sim", "prompt": "Hello", "max_tokens": 5, "seed": 3}
MESSAGES: dict[str, Any] = {
    "model": "sim",
    "messages": [{"role": "user", "content": "Hello"}],
    "max_tokens": 5,
    "seed": 3,
}


class Badges:
    """Knows who shows a badge: a name, scopes, and models as `models=a,b`."""

    @hookimpl
    async def authenticate(self, call: Call) -> Principal | None:
        name, *rest = (call.header("authorization") or "").split() or [""]
        scopes = frozenset(one for one in rest if "=" not in one)
        models = [one.removeprefix("models=").split(",") for one in rest if "=" in one]
        only = frozenset(models[0]) if models else None
        return Principal(name, scopes, models=only) if name else None


def badge(text: str) -> dict[str, str]:
    return {"authorization": text}


async def submit(live: Live, path: str, body: object, **headers: str) -> str:
    """Submit an item; return the URL of its status."""
    answer = await live.client.post(path, json=body, headers=headers)
    assert answer.status_code == (200 if path.startswith(JOBS) else 202), answer.text
    accepted = answer.json()
    return str(accepted.get("status_url") or f"{JOBS}/{accepted['job_id']}")


async def over(live: Live, url: str, **headers: str) -> dict[str, Any]:
    """Wait until the item is over; return its object."""
    found = (await live.client.get(url, params={"wait": 20}, headers=headers)).json()
    assert found["status"] not in ("queued", "running")
    return dict(found)


def code(answer: httpx.Response) -> tuple[int, str | None, str]:
    """The status, the parameter and the code of an error."""
    error = answer.json()["error"]
    return answer.status_code, error["param"], error["code"]


@asynccontextmanager
async def holding() -> AsyncIterator[tuple[ScriptedWorker, asyncio.Event]]:
    """A worker that answers nothing until the event is set."""
    free = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        while True:
            await connection.read_request()
            await free.wait()
            await connection.write(answer_of(b'{"id": "its-own", "choices": []}'))

    async with ScriptedWorker(script) as worker:
        yield worker, free
        free.set()
