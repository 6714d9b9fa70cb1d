"""Leases between real processes: faults 3.6 and 3.7 of the contract, and claims at once."""

import asyncio
import contextlib
import json
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from gateway_plugins.batch.queue.submission import Submission
from support.gateways.reloadable import write
from support.gateways.serving_process import Process, serving
from support.records.queued_items import OWNER, engine_of, new_item
from support.records.run_items import ended, quick

from gateway.config import StorageSettings
from gateway.simulator import Simulator
from gateway.testing import GatewayFor, ScriptedConnection, ScriptedWorker, answer_of

LEASE = 1.2
TAKEN = re.compile(rb"this process was taken for ended")


class Numbering:
    """A worker that numbers its answers, and holds each until it is let go."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[int] = asyncio.Queue()
        self._gates: list[asyncio.Event] = []

    async def script(self, connection: ScriptedConnection) -> None:
        while True:
            await connection.read_request()
            number, gate = len(self._gates), asyncio.Event()
            self._gates.append(gate)
            self.asked.put_nowait(number)
            await gate.wait()
            body = {"choices": [], "number": number}
            await connection.write(answer_of(json.dumps(body).encode()))

    def answer(self, number: int) -> None:
        self._gates[number].set()


@contextlib.asynccontextmanager
async def gateway(folder: Path, name: str, worker: str) -> AsyncIterator[Process]:
    """One of those that share the file of the folder."""
    plugin = ("batch", {"lease": LEASE})
    database = {"path": str(folder / "gateway.db")}
    write(folder / f"{name}.yaml", plugin, storage=database)
    async with serving(worker, "--config", str(folder / f"{name}.yaml")) as process:
        yield process


async def ask(process: Process, method: str, target: str, **body: Any) -> dict[str, Any]:
    async with process.client() as client:
        content = json.dumps(body).encode() if body else b""
        headers = [(b"content-type", b"application/json")]
        found = await client.ask(method, target, headers, content)
        answer: dict[str, Any] = json.loads(found.body)
        return answer


async def submit(process: Process) -> str:
    body = {"model": "sim", "messages": [{"role": "user", "content": "Hello"}]}
    answer = await ask(process, "POST", "/v1/batch/chat/completions", **body)
    return str(answer["status_url"])


async def test_fault_3_7_stopped_process_loses_its_items_after_the_lease_and_registers_anew(
    tmp_path: Path,
) -> None:
    worker = Numbering()
    async with ScriptedWorker(worker.script) as engine:
        async with gateway(tmp_path, "one", engine.url) as one:
            status_url = await submit(one)
            assert await worker.asked.get() == 0
            one.kill(signal.SIGSTOP)
            async with gateway(tmp_path, "other", engine.url) as other:
                assert await worker.asked.get() == 1, "it has taken the item over"
                worker.answer(1)
                found = await ask(other, "GET", f"{status_url}?wait=20")
                assert (found["status"], found["number"], found["attempts"]) == ("completed", 1, 2)
                worker.answer(0)
                one.kill(signal.SIGCONT)
                await one.says(TAKEN)
                found = await ask(one, "GET", status_url)
                assert found["number"] == 1, "its own answer came too late"
            again = await submit(one)
            assert await worker.asked.get() == 2
            worker.answer(2)
            found = await ask(one, "GET", f"{again}?wait=20")
            assert (found["status"], found["number"]) == ("completed", 2)


async def test_fault_3_6_items_of_a_killed_process_run_at_once_in_another(tmp_path: Path) -> None:
    """Long before its lease is over."""
    worker = Numbering()
    async with ScriptedWorker(worker.script) as engine:
        async with gateway(tmp_path, "one", engine.url) as one:
            status_url = await submit(one)
            assert await worker.asked.get() == 0
            one.kill(signal.SIGKILL)
            await one.ended()
        async with gateway(tmp_path, "other", engine.url) as other:
            assert await worker.asked.get() == 1
            worker.answer(1)
            found = await ask(other, "GET", f"{status_url}?wait=20")
            assert (found["status"], found["number"]) == ("completed", 1)


@pytest.fixture
def shared(tmp_path: Path) -> StorageSettings:
    return StorageSettings(path=str(tmp_path / "gateway.db"))


async def test_processes_that_claim_at_once_share_the_items(
    gateway_for: GatewayFor, simulator: Simulator, shared: StorageSettings
) -> None:
    """Two gateways with threads and connections of their own: each item runs in one of them."""
    ran: Counter[str] = Counter()

    async def script(connection: ScriptedConnection) -> None:
        while True:
            request = await connection.read_request()
            [item_id] = re.findall(rb"x-request-id: (\S+)", request)
            ran[item_id.decode()] += 1
            await connection.write(answer_of(b'{"choices": []}'))

    async with ScriptedWorker(script) as engine:
        lives = [await gateway_for(quick(), workers=[engine.url], storage=shared) for _ in range(2)]
        items = [new_item() for _ in range(200)]
        for number, live in enumerate(lives):
            await engine_of(live).submit(OWNER, items[number::2])
        await ended(lives[0], [item.id for item in items])
    assert ran == Counter({item.id: 1 for item in items})


async def test_submissions_that_repeat_each_other_at_once_queue_one_item(
    gateway_for: GatewayFor, shared: StorageSettings
) -> None:
    lives = [await gateway_for(quick(), storage=shared) for _ in range(2)]
    submission = Submission("ada", "a key", b"the digest")
    ids = await asyncio.gather(
        *(engine_of(lives[n % 2]).submit(OWNER, [new_item()], submission) for n in range(10))
    )
    assert len(set(ids)) == 1
    [item] = await ended(lives[0], ids[:1])
    assert item.attempts == 1
