"""A real vLLM in a process of its own, which can be killed and started again."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import IO

import httpx
from support.ports import free_port
from support.runtime.real_vllm import CPU

READY_IN = 1800.0
"""Seconds; half a minute on a machine that does nothing else."""

ARGUMENTS = (
    *("--served-model-name", "tiny", "--host", "127.0.0.1", "--dtype", "bfloat16"),
    *("--max-model-len", "2048", "--max-num-seqs", "16", "--enforce-eager"),
    *("--kv-cache-memory-bytes", "134217728", "--enable-scale-out"),
    *(
        "--enable-auto-tool-choice",
        "--tool-call-parser",
        "hermes",
        "--enable-prompt-tokens-details",
    ),
)


class VLLM:
    """`home` is the folder VLLM_HOME; `log` is what it says."""

    def __init__(self, home: Path, log: IO[bytes]) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._home = home
        self._log = log
        self._running: asyncio.subprocess.Process | None = None

    async def start(self, model: Path, *more: str) -> None:
        """Until it answers. Raises TimeoutError, or ChildProcessError if it ends before that."""
        program = str(self._home / "venv/bin/vllm")
        where = ("serve", str(model), "--port", str(self.port))
        self._running = await asyncio.create_subprocess_exec(
            *(program, *where, *ARGUMENTS, *more),
            env={**os.environ, **CPU, "VLLM_SERVER_DEV_MODE": "1"},
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        async with asyncio.timeout(READY_IN), httpx.AsyncClient(trust_env=False) as client:
            while not await self._is_ready(client):
                if self._running.returncode is not None:
                    raise ChildProcessError(f"vLLM ended with {self._running.returncode}")
                await asyncio.sleep(0.5)

    async def kill(self, *, core: bool = False) -> None:
        """With SIGKILL: the whole server, or the process of its engine core, which ends it too."""
        assert self._running is not None
        for pid in _children(self._running.pid) if core else ():
            os.kill(pid, signal.SIGKILL)
        if core:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._running.wait(), 30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._running.pid, signal.SIGKILL)
        await self._running.wait()

    async def abort(self, request_ids: Sequence[str]) -> None:
        """Nothing happens if it is not there, or has no such requests."""
        with contextlib.suppress(httpx.HTTPError):
            async with httpx.AsyncClient(trust_env=False) as client:
                body = {"request_ids": list(request_ids)}
                await client.post(f"{self.url}/inference/v1/abort_requests", json=body)

    async def _is_ready(self, client: httpx.AsyncClient) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return (await client.get(f"{self.url}/health", timeout=5)).status_code == 200
        return False


def thinking_model(model: Path, folder: Path, *, hidden: bool = True) -> Path:
    """Return a copy of the tiny model in which two marks that nobody uses are those of thinking.

    `hidden`: they, and those of tools, are special tokens. In most real models they are not.
    """
    copy = folder / "thinking"
    shutil.copytree(model, copy)
    for file in copy.glob("*.json"):
        text = file.read_text(encoding="utf-8")
        text = text.replace("<tool_response>", "<think>").replace("</tool_response>", "</think>")
        file.write_text(text, encoding="utf-8")
    if not hidden:
        _show_marks(copy / "tokenizer.json")
    return copy


def _show_marks(tokenizer: Path) -> None:
    found = json.loads(tokenizer.read_text(encoding="utf-8"))
    for token in found["added_tokens"]:
        token["special"] = not re.fullmatch("</?(think|tool_call)>", token["content"])
    tokenizer.write_text(json.dumps(found), encoding="utf-8")


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(child) for child in text.split()]


@contextlib.asynccontextmanager
async def vllm(home: Path, folder: Path) -> AsyncIterator[VLLM]:
    """One that has yet to be started."""
    with (folder / "vllm.log").open("wb") as log:
        engine = VLLM(home, log)
        try:
            yield engine
        finally:
            if engine._running is not None:
                await engine.kill()
