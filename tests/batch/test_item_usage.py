"""What items cost: each is one request, by its end; attempts and their tokens are apart."""

import asyncio
import itertools
import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from gateway_plugins.usage.journal.file import UNKNOWN
from gateway_plugins.usage.journal.recovery import calls_of, journals_of
from support.gateways.capturing import chat
from support.plugins.recording_plugin import until
from support.records.queued_items import CHAT, OWNER, engine_of, new_item
from support.records.run_items import count, queue, quick, run
from support.workers.failing_worker import closes, refusal
from support.workers.patient_worker import ANSWER, patient
from usage.test_usage_verify import Command

from gateway import Call, Database, Outcome, TooManyRequests, hookimpl
from gateway.config import PluginEntry, StorageSettings
from gateway.testing import GatewayFor, Live, ScriptedConnection, ScriptedWorker
from gateway.testing import answer_of as answering

OK = answering(ANSWER)
ABORTED = answering(
    b'{"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"},'
    b' "finish_reason": "abort"}], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}'
)
"""Of an engine that was told to stop."""

CAPTURING = ("sessions", "trace_capture")
ORDERS: Sequence[Sequence[str | PluginEntry]] = (
    (*CAPTURING, quick(), "usage"),
    (*CAPTURING, "usage", quick()),
)


class Cycle:
    """A worker's script: these answers, one a call, again and again."""

    def __init__(self, *answers: bytes) -> None:
        self._answers = itertools.cycle(answers)

    async def __call__(self, connection: ScriptedConnection) -> None:
        while True:
            await connection.read_request()
            await connection.write(next(self._answers))


COUNTED = (
    *("success_total", "error_total", "aborted_total", "refused_total"),
    *("total_tokens", "wasted_tokens"),
)


async def counted(live: Live) -> dict[str, float]:
    """The usage of the only key, without zeros."""
    [item] = (await live.client.get("/monitor/key_usage")).json()["items"]
    assert item["request_total"] == item["batch_requests"], item
    return {name: item[name] for name in COUNTED if item[name]}


async def repeated(live: Live) -> tuple[int, int]:
    """Rows of the ledger: attempts, and others."""
    await live.gateway.storage.flush()
    return await count(live, "usage_calls", "repeated"), await count(
        live, "usage_calls", "NOT repeated"
    )


@pytest.mark.parametrize("plugins", ORDERS, ids=["batch-first", "usage-first"])
async def test_fault_7_1_an_item_is_one_request_however_often_it_was_tried(
    gateway_for: GatewayFor,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    plugins: Sequence[str | PluginEntry],
) -> None:
    usage = Command(tmp_path, capsys)
    async with ScriptedWorker(Cycle(ABORTED, refusal(500), OK)) as worker:
        storage = StorageSettings(path=str(usage.path))
        live = await gateway_for(*plugins, workers=[worker.url], storage=storage)
        for _ in range(4):
            [item] = await run(live, new_item(), owner=OWNER)
            assert (item.status, item.attempts) == (200, 3)
    assert await counted(live) == {
        "success_total": 4,
        "total_tokens": 4 * 8.0,
        "wasted_tokens": 4 * 5.0,
    }
    assert await repeated(live) == (8, 4)
    status, out, err = usage("verify")
    assert (status, out) == (0, "")
    assert err.startswith("ok: 12 traces compared with 12 calls in the ledger")
    await live.gateway.storage.write(_hide_an_error)
    status, out, _ = usage("verify")
    assert status == 1
    assert ": repeated: True by its trace, False counted" in out


def _hide_an_error(db: Database) -> None:
    db.execute("UPDATE usage_calls SET repeated = 0 WHERE number = 2")


async def test_fault_7_1_an_item_that_fails_for_good_is_one_error(gateway_for: GatewayFor) -> None:
    async with ScriptedWorker(closes) as worker:
        live = await gateway_for(quick(), "usage", workers=[worker.url])
        [item] = await run(live, new_item(), owner=OWNER)
    assert item.attempts == 3
    assert await counted(live) == {"error_total": 1}
    assert await repeated(live) == (2, 1)


class Busy:
    """Refuses the first calls, before anything observes them."""

    def __init__(self) -> None:
        self.left = 2

    @hookimpl
    async def admit(self, call: Call) -> None:
        self.left -= 1
        if self.left >= 0:
            raise TooManyRequests("not now")


async def test_fault_7_1_an_item_that_was_refused_before_is_one_request(
    gateway_for: GatewayFor,
) -> None:
    live = await gateway_for(Busy, quick(), "usage")
    [item] = await run(live, new_item(), owner=OWNER)
    assert (item.status, item.attempts) == (200, 3)
    used = await counted(live)
    assert used.pop("total_tokens") > 0
    assert used == {"success_total": 1}
    assert await repeated(live) == (2, 1)


async def test_item_that_makes_room_is_an_attempt_and_one_that_is_canceled_a_request(
    gateway_for: GatewayFor,
) -> None:
    async with patient() as worker:
        live = await gateway_for(quick(), "usage", workers=[worker.url])
        [item_id] = await queue(live, new_item(), owner=OWNER)
        await worker.asked.wait()
        worker.asked.clear()
        assert engine_of(live).runner.preempt() == 1
        await worker.asked.wait()
        assert await engine_of(live).cancel(item_id)
        await until(lambda: not live.gateway.proxy.in_flight)
    assert await repeated(live) == (1, 1)
    assert await counted(live) == {"aborted_total": 1}


SEEN = "SELECT (SELECT count(*) FROM usage_calls), state FROM batch_items"


class Spy:
    """A plugin and its sink: compares what the transaction has with what others see."""

    def __init__(self) -> None:
        self.inside: list[object] = []
        self.outside: list[object] = []
        self.journalled: list[int] = []

    @hookimpl
    def call_finished(self, call: Call, outcome: Outcome) -> None:
        call.store(Look(self), call.id, 1)


class Look:
    """The sink of a Spy."""

    def __init__(self, spy: Spy) -> None:
        self._spy = spy

    def prepare(self, db: Database, item: object) -> object:
        return item

    def write(self, db: Database, rows: Sequence[object]) -> None:
        [(_, _, path)] = db.select("PRAGMA database_list")
        with closing(sqlite3.connect(path)) as other:
            self._spy.outside += other.execute(SEEN)
        self._spy.inside += db.select(SEEN)
        [journal] = journals_of(Path(path))
        self._spy.journalled += [call.ended.outcome for call in calls_of(journal)]

    def written(self, rows: Sequence[object]) -> None: ...

    def lost(self, item: object, error: BaseException) -> None: ...


@pytest.mark.parametrize("plugins", [(quick(), "usage"), ("usage", quick()), ORDERS[0]])
async def test_fault_7_3_usage_and_end_of_an_item_are_in_one_transaction(
    gateway_for: GatewayFor, tmp_path: Path, plugins: Sequence[str | PluginEntry]
) -> None:
    storage = StorageSettings(path=str(tmp_path / "gateway.db"))
    live = await gateway_for(*plugins, Spy, storage=storage)
    await run(live, new_item(), owner=OWNER)
    spy = live.plugin(Spy)
    assert spy.outside == [(0, 1)], "running, and nothing counted"
    assert spy.inside == [(1, 2)], "completed, with a row"
    assert spy.journalled == [UNKNOWN], "a kill before the commit makes it an attempt"


async def test_fault_7_1_journal_of_a_kill_knows_items_that_run_again(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    path = tmp_path / "gateway.db"
    async with patient() as worker:
        storage = StorageSettings(path=str(path))
        live = await gateway_for(quick(), "usage", workers=[worker.url], storage=storage)
        await queue(live, new_item(), owner=OWNER)
        asking = asyncio.create_task(live.client.post(CHAT, json=chat()))
        await until(lambda: len(live.gateway.proxy.in_flight) == 2)
        [journal] = journals_of(path)
        await until(lambda: len(calls_of(journal)) == 2)
        found = {call.source: call.repeatable for call in calls_of(journal)}
        assert found == {"batch": True, "realtime": False}
        worker.free.set()
        assert json.loads((await asking).content)["usage"]["completion_tokens"] == 5
