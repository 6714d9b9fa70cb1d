"""Gateways that are killed with -9 while they run an evaluation: fault 11.7 of the contract.

Whatever dies in whichever state, the job ends with the scores of an undisturbed one.
"""

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from support.evaluations.repositories import Folder
from support.gateways.serving_process import Process, serving
from support.plugins.recording_plugin import until

from gateway.simulator import Simulator, SimulatorConfig

GATED = """
import hashlib, os, time
from pathlib import Path

def passed(gate):
    here = Path(__file__).parent
    with (here / f"begun-{gate}").open("a") as file:
        file.write("x")
    while (here / f"shut-{gate}").exists():
        time.sleep(0.01)

def prepare_requests(model_name, max_prompts):
    passed("prepare")
    return {"requests": [
        {"prompt": f"Say {n}", "max_tokens": 6, "temperature": 0, "seed": n, "_n": n}
        for n in range(max_prompts)
    ]}

def score_results(requests, responses, metadata):
    passed("score")
    texts = [r["choices"][0]["text"] for r in responses]
    digest = hashlib.sha256("".join(texts).encode()).hexdigest()
    return {"metrics": {"n": len(texts), "digest": int(digest[:12], 16)},
            "details": {"texts": len(set(texts))}}
"""


class Box:
    """A repository whose evaluation stops at gates, and gateways on one database."""

    def __init__(self, folder: Path, simulator: Simulator) -> None:
        self.repository = Folder(folder / "repository").add("gated", GATED)
        self._place = self.repository.path / "evals/gated"
        self._simulator = simulator
        self._file = folder / "gateway.yaml"
        plugins: list[Any] = ["batch", "usage"]
        plugin = "gateway_plugins.evaluations:Evaluations"
        plugins.append({plugin: {"repository": str(self.repository.path)}})
        settings = {"storage": {"path": str(folder / "gateway.db")}, "plugins": plugins}
        self._file.write_text(json.dumps(settings))

    def shut(self, gate: str) -> None:
        (self._place / f"shut-{gate}").touch()

    def open(self, gate: str) -> None:
        (self._place / f"shut-{gate}").unlink(missing_ok=True)

    def carrier(self) -> int | None:
        """The process that carries the evaluations, by the locks that the kernel lists."""
        lock = self._file.with_name("gateway.db-evaluations") / "conductor.lock"
        if not lock.exists():
            return None
        held = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        inode = str(lock.stat().st_ino)
        pids = [int(one[4]) for one in held if one[5].rpartition(":")[2] == inode]
        assert len(pids) < 2
        return pids[0] if pids else None

    def begun(self, gate: str) -> int:
        file = self._place / f"begun-{gate}"
        return len(file.read_text()) if file.exists() else 0

    @contextlib.asynccontextmanager
    async def gateway(self, *more: str) -> AsyncIterator[tuple[Process, httpx.AsyncClient]]:
        """Until it is killed, which the end of the block does."""
        async with serving(self._simulator.url, "--config", str(self._file), *more) as process:
            async with httpx.AsyncClient(base_url=process.url, timeout=60) as client:
                reading = asyncio.create_task(drained(process))
                yield process, client
            process.kill(signal.SIGKILL)
            await reading


async def drained(process: Process) -> None:
    async for _ in process.lines():
        pass


class Seen(msgspec.Struct):
    """What a record says of the only evaluation of its job."""

    job: str
    state: str
    completed: int


async def seen(client: httpx.AsyncClient, job_id: str) -> Seen:
    record = (await client.get(f"/eval/{job_id}?brief=true")).raise_for_status().json()
    status = record["eval_status"]["gated"]
    return Seen(record["status"], status["status"], status.get("completed", 0))


async def submitted(client: httpx.AsyncClient, items: int) -> str:
    body = {"model": "sim", "evals": ["gated"], "prepare_args": {"max_prompts": items}}
    return str((await client.post("/eval/submit", json=body)).raise_for_status().json()["job_id"])


async def record_of(client: httpx.AsyncClient, job_id: str) -> dict[str, Any]:
    ends = time.monotonic() + 240
    while time.monotonic() < ends:
        record = (await client.get(f"/eval/{job_id}?wait=50")).raise_for_status().json()
        if record["status"] not in ("pending", "submitting", "running"):
            return dict(record)
    raise TimeoutError


def results(record: dict[str, Any]) -> tuple[dict[str, float], str, list[str]]:
    status = record["eval_status"]["gated"]
    assert status["status"] == "completed", status
    lines = (Path(record["results_folder"]) / "gated_debug.jsonl").read_text().splitlines()
    answers = [json.loads(line)["response"]["choices"][0]["text"] for line in lines]
    return status["results"], status["progress"], answers


async def test_fault_11_7_killed_in_the_middle_of_its_items(tmp_path: Path) -> None:
    async with Simulator(SimulatorConfig(ttft=0.05, itl=0.01)) as simulator:
        box = Box(tmp_path, simulator)
        async with box.gateway() as (_, client):
            job_id = await submitted(client, 60)
            while not (found := await seen(client, job_id)).completed > 5:
                assert found.state in ("pending", "preparing", "running")
            assert found.completed < 60
        async with box.gateway() as (_, client):
            scores, progress, _ = results(await record_of(client, job_id))
    assert progress == "60/60"
    assert scores["n"] == 60
    assert box.begun("prepare") == 1


@pytest.mark.slow
async def test_fault_11_7_another_process_goes_on_if_the_one_that_carries_evaluations_is_killed(
    tmp_path: Path,
) -> None:
    async with Simulator(SimulatorConfig(ttft=0.05, itl=0.01)) as simulator:
        box = Box(tmp_path, simulator)
        async with box.gateway("--processes", "2") as (supervisor, client):
            job_id = await submitted(client, 200)
            while not (await seen(client, job_id)).completed > 5:
                pass
            first = box.carrier()
            assert first not in (None, supervisor.pid)
            supervisor.kill(signal.SIGSTOP)  # no process comes in the place of the killed one
            os.kill(first or 0, signal.SIGKILL)
            await until(lambda: box.carrier() not in (None, first))
            supervisor.kill(signal.SIGCONT)
            async with httpx.AsyncClient(base_url=supervisor.url, timeout=60) as another:
                disturbed = await record_of(another, job_id)
                undisturbed = await record_of(another, await submitted(another, 200))
    assert results(disturbed) == results(undisturbed)
    assert box.begun("prepare") == 2


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_fault_11_7_killed_in_every_state_it_ends_with_the_score_of_an_undisturbed_run(
    tmp_path: Path,
) -> None:
    items = 500
    async with Simulator(SimulatorConfig(ttft=0.05, itl=0.02)) as simulator:
        box = Box(tmp_path, simulator)
        box.shut("prepare")
        async with box.gateway() as (_, client):
            job_id = await submitted(client, items)  # killed while pending, or right after
        async with box.gateway() as (_, client):
            await until(lambda: box.begun("prepare") > 0)
            assert await seen(client, job_id) == Seen("submitting", "preparing", 0)
        again = box.begun("prepare")
        async with box.gateway() as (_, client):
            await until(lambda: box.begun("prepare") > again)
            box.open("prepare")
            box.shut("score")
            while (await seen(client, job_id)).state != "running":
                pass
        for part in (50, 200, 400):
            async with box.gateway() as (_, client):
                while (found := await seen(client, job_id)).completed < part:
                    pass
                assert found.job == "running"
        for number in (1, 2):
            async with box.gateway() as (_, client):
                await until(lambda number=number: box.begun("score") >= number)  # type: ignore[misc]
                assert await seen(client, job_id) == Seen("running", "scoring", items)
        box.open("score")
        async with box.gateway() as (_, client):
            disturbed = await record_of(client, job_id)
        async with box.gateway() as (_, client):  # killed after its end, which changes nothing
            assert await record_of(client, job_id) == disturbed
            undisturbed = await record_of(client, await submitted(client, items))
    assert results(disturbed) == results(undisturbed)
    assert disturbed["status"] == undisturbed["status"] == "completed"
    kept = Path(disturbed["results_folder"]).parent / "results.jsonl"
    assert len(kept.read_text().splitlines()) == 2
