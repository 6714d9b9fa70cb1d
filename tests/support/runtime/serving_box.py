"""A GPU box as its operator runs it: `gateway serve` with real vLLMs, and the `gateway` commands.

The engines are on the CPU, in the folder that the variable VLLM_HOME names.
"""

import asyncio
import contextlib
import json
import os
import signal
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import yaml
from support.gateways.serving_process import COMMAND, LISTENS, Process, started
from support.paths import ROOT
from support.ports import free_port
from support.runtime.boxes import QUICK
from support.runtime.real_vllm import CPU

OWN, OTHER = "org/tiny", "other"
"""The model that comes by an upload, and the one that is there."""

TOKEN, HARNESS = "gw-story-9c41", "gw-harness-27d0"
KEYS = {
    TOKEN: ("realtime", "batch", "eval", "upload", "monitor"),
    HARNESS: ("realtime", "evaluator"),
}
"""The scopes of the keys: of an operator, and of an evaluation harness."""

ARGUMENTS = (
    "--dtype bfloat16 --max-model-len 2048 --max-num-seqs 16 --enforce-eager "
    "--kv-cache-memory-bytes 134217728"
)

COLD = 600.0
"""Seconds for a call whose model has to be loaded, on a busy machine."""

Object = dict[str, Any]


def engines() -> Path:
    """The folder of vLLM and of its two models. Skips the test if there is none."""
    place = os.environ.get("VLLM_HOME")
    if place is None:
        pytest.skip("set VLLM_HOME to a folder with venv/bin/vllm, model and model-b")
    return Path(place)


class Box(msgspec.Struct, frozen=True):
    """A running gateway, whose files are in `folder`."""

    url: str
    folder: Path
    client: httpx.AsyncClient

    async def command(self, *arguments: str) -> tuple[int, str, str]:
        """The exit status of `gateway ARGUMENTS`, and what it prints."""
        state = {"XDG_STATE_HOME": str(self.folder / "state"), "GATEWAY_API_KEY": TOKEN}
        process = await asyncio.create_subprocess_exec(
            *(*COMMAND, *arguments, "--url", self.url),
            stdout=PIPE,
            stderr=PIPE,
            env={**os.environ, **state},
        )
        out, error = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), error.decode()

    async def chat(self, model: str, text: str = "Hello", tokens: int = 16) -> httpx.Response:
        body = chat_body(model, text, tokens)
        return await self.client.post("/v1/chat/completions", json=body)

    async def engine(self) -> str:
        """The URL of the engine that is there."""
        [worker] = (await self.client.get("/health/workers")).json()["workers"]
        return str(worker["url"])

    async def calls(self, route: str) -> int:
        """How many calls of this path have ended with success."""
        lines = (await self.client.get("/metrics")).text.splitlines()
        wanted = ("gateway_requests_total{", f'route="{route}"', 'status="200"')
        return sum(int(float(line.split()[-1])) for line in lines if all(x in line for x in wanted))

    async def loads(self) -> list[str]:
        """The models that became hot, from the first to the latest."""
        [runtime] = (await self.client.get("/admin/runtime")).json()["runtimes"]
        states = [one["state"] for one in runtime["decisions"]]
        return [state for state in reversed(states) if state.startswith("hot(")]


def chat_body(model: str, text: str, tokens: int) -> Object:
    messages = [{"role": "user", "content": text}]
    more = {"max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    return {"model": model, "messages": messages, **more}


def text_of(answer: Object) -> str:
    return str(answer["choices"][0]["message"]["content"])


def settings(folder: Path, home: Path, own: Path | None = None, **evaluations: object) -> Object:
    """The configuration of a box: `own` is the folder of the model OWN.

    None: it is that of the hub's cache, which has no model yet.
    """
    cache = str(folder / "cache")
    environment = {
        **CPU,
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_CACHE": cache,
        "PATH": f"{home}/venv/bin:{os.environ['PATH']}",
    }
    engine = {"environment": environment, "arguments": ARGUMENTS, "ready_timeout": COLD}
    path = None if own is None else str(own)
    models = [
        {"name": OWN, "path": path, **engine},
        {"name": OTHER, "path": str(home / "model-b"), **engine},
    ]
    runtime = {"models": models, "runtimes": [{"port": free_port()}], "rules": QUICK}
    repository = {"repository": str(ROOT / "evaluations"), "models": cache, **evaluations}
    return {
        "storage": {"path": str(folder / "gateway.db")},
        "plugins": [
            {"auth": {"keys_file": str(folder / "keys.json")}},
            "usage",
            "batch",
            {"runtime": {**runtime, "hold": COLD}},
            {"uploads": {"cache": cache}},
            {"evaluations": repository},
            "openai_models",
            "metrics",
        ],
    }


@contextlib.asynccontextmanager
async def serving_box(folder: Path, given: Object) -> AsyncIterator[Box]:
    """`gateway serve` while the block lasts; its engines end with it."""
    keys = folder / "keys.json"
    given_keys = [{"id": one[:8], "token": one, "scopes": KEYS[one]} for one in KEYS]
    keys.write_text(json.dumps({"keys": given_keys}))
    keys.chmod(0o600)
    file = folder / "gateway.yaml"
    file.write_text(yaml.safe_dump(given))
    arguments = ("serve", "--config", str(file), "--port", "0")
    async with started(*arguments, environment={}) as process:
        host, port = (await process.says(LISTENS)).groups()
        process.address = (host.decode(), int(port))
        reading = asyncio.create_task(_read(process, folder / "gateway.log"))
        badge = {"authorization": f"Bearer {TOKEN}"}
        try:
            async with httpx.AsyncClient(
                base_url=process.url, headers=badge, timeout=COLD
            ) as client:
                yield Box(process.url, folder, client)
        finally:
            process.kill(signal.SIGTERM)
            await reading
            assert await process.ended() == 0


async def _read(process: Process, file: Path) -> None:
    """Keep its log to the end, so that it can go on writing."""
    with file.open("ab") as log:
        log.write(process.log)
        async for line in process.lines():
            log.write(line)
            log.flush()
