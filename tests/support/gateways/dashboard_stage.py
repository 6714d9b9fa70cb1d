"""All that a dashboard can show, in processes of their own: a gateway, two engines, their load."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
import yaml
from support.evaluations.repositories import PLAIN, Folder
from support.gateways.serving_process import LISTENS, Process, started
from support.gateways.watched_pages import EVIL
from support.ports import free_port

KEYS: Mapping[str, Sequence[str]] = {
    "boss": [
        *("realtime", "batch", "eval", "upload", "sessions", "sessions:all", "monitor", "logs"),
        "admin",
    ],
    "watcher": ["monitor"],
    "caller": ["realtime"],
    "trainer": ["realtime", "sessions"],
    EVIL: ["realtime", "batch", "eval", "sessions"],
}
"""Ids of the keys and their scopes; the token is `gw-` and the first letters of the id."""

QUICK, SLOW = "quick", "slow"
"""Ids of the workers."""

ENGINES: Mapping[str, Sequence[str]] = {
    QUICK: ["--itl", "0.005"],
    SLOW: ["--ttft", "0.3", "--itl", "0.02"],
}

MODELS = ["sim", EVIL]
"""The engines refuse the second one, so that its calls fail."""


def token(name: str) -> str:
    return "gw-evil" if name == EVIL else f"gw-{name}"


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token(name)}"}


class Stage(msgspec.Struct, frozen=True):
    """`engines` are those of the workers by their ids; `client` asks the gateway."""

    process: Process
    engines: Mapping[str, Process]
    client: httpx.AsyncClient
    config: Path

    @property
    def url(self) -> str:
        return self.process.url

    async def chat(self, session: str, key: str = "boss", **fields: Any) -> httpx.Response:
        """A chat of a session."""
        path = f"/sessions/{quote(session, safe='')}/v1/chat/completions"
        return await self.client.post(path, json=body(**fields), headers=bearer(key))


def body(**fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Hello"}]
    return {"model": "sim", "messages": messages, "max_tokens": 8, "logprobs": True, **fields}


@contextlib.asynccontextmanager
async def engine(*arguments: str, port: int | None = None) -> AsyncIterator[Process]:
    """A simulated engine, which answers soon."""
    port = port or free_port()
    async with started("simulate", "--port", str(port), *arguments, environment={}) as process:
        process.address = ("127.0.0.1", port)
        yield process


async def answering(url: str) -> None:
    """Return once the engine answers."""
    async with httpx.AsyncClient(base_url=url) as client, asyncio.timeout(60):
        while True:
            with contextlib.suppress(httpx.TransportError):
                await client.get("/health")
                return
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def gateway(config: Path, port: int = 0) -> AsyncIterator[Process]:
    """`gateway serve` with a configuration, once it listens."""
    arguments = ("serve", "--config", str(config), "--port", str(port))
    async with started(*arguments, environment={}) as process:
        host, found = (await process.says(LISTENS)).groups()
        process.address = (host.decode(), int(found))
        yield process


@contextlib.asynccontextmanager
async def staged(
    folder: Path, engines: Mapping[str, Sequence[str]] = ENGINES, refresh: float = 0.3
) -> AsyncIterator[Stage]:
    """A gateway with all plugins of the dashboard, before engines with these arguments."""
    async with contextlib.AsyncExitStack() as stack:
        found = {
            id_: await stack.enter_async_context(engine(*arguments))
            for id_, arguments in engines.items()
        }
        config = configured(folder, found, refresh)
        process = await stack.enter_async_context(gateway(config))
        await asyncio.gather(*(answering(one.url) for one in found.values()))
        client = httpx.AsyncClient(base_url=process.url, timeout=60)
        yield Stage(process, found, await stack.enter_async_context(client), config)


EVIL_SCORES = PLAIN.replace('"share":', f'"{EVIL}": 0.25, "share":')
"""Models and evaluations have names by rule; those of scores are the evaluation's own."""


def configured(folder: Path, engines: Mapping[str, Process], refresh: float) -> Path:
    """Write a configuration; returns its file."""
    keys = [
        {"id": name, "token": token(name), "scopes": list(scopes)} for name, scopes in KEYS.items()
    ]
    (folder / "keys.json").write_text(json.dumps({"keys": keys}))
    (folder / "keys.json").chmod(0o600)
    Folder(folder / "repository").add("example", EVIL_SCORES)
    settings = {
        "workers": [
            {"url": f"{one.url}/v1", "worker_id": id_, "models": MODELS}
            for id_, one in engines.items()
        ],
        "storage": {"path": str(folder / "gateway.db")},
        "probes": {"interval": 0.2, "models": None},
        "plugins": [
            {"auth": {"keys_file": str(folder / "keys.json")}},
            {"limits": {"default": {"tokens_per_day": 20_000}}},
            *("sessions", "circuit_breaker", "trace_capture", "usage", "batch"),
            {"evaluations": {"repository": str(folder / "repository")}},
            {"uploads": {"cache": str(folder / "models"), "keep_free_gb": 0}},
            {"dashboard": {"refresh": refresh}},
        ],
    }
    file = folder / "gateway.yaml"
    file.write_text(yaml.safe_dump(settings))
    return file


async def fill(stage: Stage) -> None:
    """Make what each panel shows: sessions, an INCOMPLETE call, items, and an evaluation."""
    await asyncio.gather(
        *(stage.chat(f"agent-{n % 3}", stream=n % 2 == 0, top_logprobs=3) for n in range(12)),
        *(stage.chat(EVIL, key=EVIL, model=model) for model in ("sim", EVIL)),
        *(_submit(stage, EVIL, model) for model in ("sim", EVIL)),
    )
    evals = {"model": "sim", "evals": ["example"], "prepare_args": {"max_prompts": 2}}
    answer = await stage.client.post("/eval/submit", json=evals, headers=bearer(EVIL))
    assert answer.status_code < 300, answer.text


async def _submit(stage: Stage, key: str, model: str) -> None:
    item = {"model": model, "prompt": "Hello", "max_tokens": 4}
    answer = await stage.client.post("/v1/batch/completions", json=item, headers=bearer(key))
    assert answer.status_code == 202, answer.text


@contextlib.asynccontextmanager
async def loaded(stage: Stage, callers: int = 4) -> AsyncIterator[None]:
    """Keep the engines at work while the block lasts."""

    async def call(number: int) -> None:
        while True:
            await stage.chat(f"agent-{number % 3}", stream=True, max_tokens=40)

    working = [asyncio.create_task(call(number)) for number in range(callers)]
    try:
        yield
    finally:
        for one in working:
            one.cancel()
        await asyncio.wait(working)
