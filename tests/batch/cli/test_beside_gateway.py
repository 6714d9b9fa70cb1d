"""`gateway batch` beside a running gateway: another process with the same file."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from gateway_plugins.batch.queue.items import COMPLETED, STATES
from gateway_plugins.batch.queue.reading import answer_of
from support.records.queued_items import OWNER, engine_of, new_item
from support.workers.failing_worker import refusal
from support.workers.patient_worker import ANSWER, patient

from gateway.testing import GatewayFor, Live, ScriptedConnection, ScriptedWorker
from gateway.testing import answer_of as good

Command = Callable[..., Awaitable[tuple[int | None, str, str]]]


def command(path: Path) -> Command:
    """`gateway batch` on this file, in a process of its own."""

    async def run(*arguments: str) -> tuple[int | None, str, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", "from gateway.cli import main; main()", "batch"),
            *(*arguments, "--storage-path", str(path)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        return process.returncode, out.decode(), err.decode()

    return run


async def serving(gateway_for: GatewayFor, url: str, path: Path) -> Live:
    return await gateway_for("batch", workers=(url,), storage={"path": str(path)})


async def test_result_of_an_item_that_another_process_cancels_is_dropped(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    path = tmp_path / "gateway.db"
    run = command(path)
    async with patient() as worker:
        live = await serving(gateway_for, worker.url, path)
        engine = engine_of(live)
        item_id = await engine.submit(OWNER, [new_item()])
        await worker.asked.wait()
        status, out, _ = await run("list", "--json")
        assert (status, json.loads(out)["status"]) == (0, "running")
        status, out, err = await run("cancel", item_id)
        assert (status, out) == (0, f"{item_id} canceled\n")
        assert "drops the responses to calls that were running" in err
        worker.free.set()
        later = await engine.submit(OWNER, [new_item()])
        done = await engine.wait(later, "ada", 5)
    assert done is not None
    assert done.state == COMPLETED
    item = await engine.find(item_id, "ada")
    assert item is not None
    assert STATES[item.state] == "canceled"
    assert await live.gateway.storage.read(lambda db: answer_of(db, item.number)) is None


async def test_item_that_another_process_requeues_runs_again(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    path = tmp_path / "gateway.db"
    answers = iter([refusal(400), good(ANSWER)])

    async def script(connection: ScriptedConnection) -> None:
        while True:
            await connection.read_request()
            await connection.write(next(answers))

    async with ScriptedWorker(script) as worker:
        engine = engine_of(await serving(gateway_for, worker.url, path))
        item_id = await engine.submit(OWNER, [new_item()])
        failed = await engine.wait(item_id, "ada", 5)
        assert failed is not None
        assert STATES[failed.state] == "error"
        assert await command(path)("requeue", "--failed") == (0, "1 items queued\n", "")
        done = await engine.wait(item_id, "ada", 5)
    assert done is not None
    assert (STATES[done.state], done.attempts) == ("completed", 2)
