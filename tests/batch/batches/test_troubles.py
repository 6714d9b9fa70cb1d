"""What goes wrong around batches: lost files, full disks, other processes, old batches."""

import asyncio
from typing import Any

import pytest
from gateway_plugins.batch import Batch as Plugin
from gateway_plugins.batch.batches import conductor, steps
from support.batch.batches import answers, body, created, ids, line, lines, mistakes, over, run
from support.batch.files import client_of, contents, files_of
from support.plugins.recording_plugin import until
from support.records.queued_items import engine_of
from support.records.run_items import count, quick
from support.workers.failing_on_demand import Moody

from gateway import StorageUnavailable
from gateway.testing import GatewayFor


async def test_batch_whose_file_is_gone_fails(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch")
    async with client_of(live) as client:
        file = await client.files.create(file=b"".join(lines(1)), purpose="batch")
        files_of(live).folder.content(file.id).unlink()
        batch = await client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        batch = await over(client, batch)
    assert batch.status == "failed"
    assert mistakes(batch) == [("input_file_lost", None, None)]


async def test_full_disk_delays_the_end_of_a_batch_and_loses_nothing(
    gateway_for: GatewayFor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(conductor, "RETRY", 0.2)
    async with Moody() as worker:
        worker.gate.clear()
        live = await gateway_for(quick(), workers=[worker.url])
        folder = files_of(live).folder
        async with client_of(live) as client:
            batch = await created(client, *lines(3))
            await until(lambda: worker.held > 0)
            # Even root cannot write to a path whose folder is a file.
            place, aside = folder.path, folder.path.with_name("aside")
            place.rename(aside)
            place.touch()
            worker.gate.set()
            await until(lambda: "has to wait" in caplog.text)
            assert (await client.batches.retrieve(batch.id)).status == "finalizing"
            place.unlink()
            aside.rename(place)
            batch = await over(client, batch)
            assert ids(await answers(client, batch.output_file_id)) == ["id 0", "id 1", "id 2"]
        assert not [path for path in folder.path.iterdir() if path.suffix == ".part"]


async def test_results_that_are_written_again_are_there_once(
    gateway_for: GatewayFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are in place, and the transaction that ends the batch fails."""
    monkeypatch.setattr(conductor, "RETRY", 0.2)
    tries, finished = [], steps.finished

    def fails_once(*args: Any, **more: Any) -> bool:
        tries.append(args)
        if len(tries) == 1:
            raise StorageUnavailable("the disk is away")
        return finished(*args, **more)

    monkeypatch.setattr(steps, "finished", fails_once)
    live = await gateway_for(quick())
    async with client_of(live) as client:
        batch = await run(client, *lines(3))
        assert ids(await answers(client, batch.output_file_id)) == ["id 0", "id 1", "id 2"]
    assert len(tries) == 2
    names = {path.name for path in contents(live)}
    assert names == {batch.input_file_id, batch.output_file_id}


async def test_items_of_a_batch_stay_until_it_has_ended(gateway_for: GatewayFor) -> None:
    """Their results are kept for a shorter time than the batch runs."""
    async with Moody() as worker:
        worker.holds = b'"slow"'
        worker.gate.clear()
        live = await gateway_for(quick(keep_results=0.001), workers=[worker.url])
        async with client_of(live) as client:
            text = [*lines(2), line("slow", body(3, user="slow"))]
            batch = await created(client, *text)
            async with asyncio.timeout(20):
                while not await count(live, "batch_items", "state = 2"):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            await engine_of(live)._upkeep.clean()
            assert await count(live, "batch_items") == 3
            worker.gate.set()
            batch = await over(client, batch)
            assert len(await answers(client, batch.output_file_id)) == 3
        await engine_of(live)._upkeep.clean()
        assert await count(live, "batch_items") == 0


async def test_old_batches_are_deleted_once_their_items_are(gateway_for: GatewayFor) -> None:
    live = await gateway_for(quick(keep_files=3_600.0))
    async with client_of(live) as client:
        await run(client, *lines(1))
        await run(client, b"{")
        old = "UPDATE batches SET ended = ended - 3601"
        await live.gateway.storage.write(lambda db: db.execute(old))
        plugin = live.plugin(Plugin)
        assert plugin.engine is not None
        await plugin.engine.batches._conductor._clean()
        assert await count(live, "batches") == 1
        await live.gateway.storage.write(lambda db: db.execute("UPDATE batch_items SET expires=1"))
        await plugin.engine._upkeep.clean()
        await plugin.engine.batches._conductor._clean()
        assert await count(live, "batches") == 0


async def test_many_batches_at_a_time_all_end(gateway_for: GatewayFor) -> None:
    live = await gateway_for(quick())
    async with client_of(live) as client:
        made = [await created(client, *lines(3)) for _ in range(3 * conductor.AT_ONCE)]
        done = [await over(client, batch) for batch in made]
        for batch in done:
            assert ids(await answers(client, batch.output_file_id)) == ["id 0", "id 1", "id 2"]


async def test_fault_4_3_polling_has_no_effect_on_usage(gateway_for: GatewayFor) -> None:
    live = await gateway_for("usage", "batch")
    async with client_of(live) as client:
        batch = await run(client, *lines(3))
        used = batch.usage
        for _ in range(5):
            batch = await client.batches.retrieve(batch.id)
            await client.batches.list()
        assert batch.usage == used
        page = (await live.client.get("/monitor/key_usage")).json()
    [row] = page["items"]
    assert used is not None
    assert (row["batch_requests"], row["completion_tokens"]) == (3, used.output_tokens)
