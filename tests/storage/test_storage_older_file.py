"""A file that an earlier release wrote is opened, read and written to by this one.

`database-5e2878d.db` was written by the code of commit 5e2878d: two sessions with four calls to the
simulator, one reward, budgets, a changed worker, and an update of weights to "step-7".
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from gateway_plugins.limits.ledger import MIGRATIONS as LIMITS
from gateway_plugins.trace_capture.store.schema import MIGRATIONS as TRACES
from gateway_plugins.usage.ledger.schema import MIGRATIONS as USAGE
from gateway_plugins.weights.sync.versions import MIGRATIONS as WEIGHTS
from support.paths import SUPPORT

from gateway import Config, Storage
from gateway.config import StorageSettings, Worker
from gateway.fleet.persisted import MIGRATIONS as WORKERS
from gateway.simulator import Simulator
from gateway.testing import MESSAGES, GatewayFor, Live, entry

OLDER = SUPPORT / "data" / "database-5e2878d.db"
KEPT = {"keep_days": None, "keep_calls_days": None}
STEPS = "SELECT migration_set, name, applied_at FROM _sqlite_migrations ORDER BY id"
SPENT = "SELECT period, key, tokens, cost FROM limits_spent ORDER BY period"


@pytest.fixture
def older(tmp_path: Path) -> Path:
    return Path(shutil.copy(OLDER, tmp_path / "gateway.db"))


async def select(path: Path, migrations: Sequence[Any], *queries: str) -> list[list[Any]]:
    storage = Storage(Config(storage=StorageSettings(path=str(path))), migrations)
    await storage.open()
    try:
        return await storage.read(lambda db: [list(db.select(one)) for one in queries])
    finally:
        await storage.close()


async def started(gateway_for: GatewayFor, simulator: Simulator, path: Path) -> Live:
    budgets = entry("limits", default={"tokens_per_month": 100_000}, completion_estimate=1)
    return await gateway_for(
        *("sessions", "trace_capture", entry("usage", **KEPT), budgets),
        workers=[Worker(url=simulator.url, worker_id="w0")],
        storage=StorageSettings(path=str(path), persist_workers=True),
    )


async def read(live: Live, path: str) -> Any:
    return (await live.client.get(path)).json()


async def test_migrations_of_an_older_file_are_known_and_not_run_again(older: Path) -> None:
    migrations = [WORKERS, TRACES, USAGE, LIMITS, WEIGHTS]
    steps, spent, version = await select(
        older, migrations, STEPS, SPENT, "SELECT version FROM weight_sync"
    )
    known = {(one, name): applied_at for one, name, applied_at in steps}
    for step in (
        ("gateway", "create_workers"),
        *(("trace_capture", name) for name in ("create_tables", "add_owners", "index_params")),
        ("usage", "create_tables"),
        ("limits", "create_tables"),
        ("weight_sync", "create_table"),
    ):
        assert known[step].startswith("2026-12-01 "), "when the older file was written"
    assert len(known) == len(steps)
    assert spent == [(20261200, "anonymous", 195, 223_000), (20261201, "anonymous", 195, 223_000)]
    assert version == [("step-7",)]


async def test_records_of_an_older_file_are_read(
    gateway_for: GatewayFor, simulator: Simulator, older: Path
) -> None:
    live = await started(gateway_for, simulator, older)
    given, other = await read(live, "/sessions")
    assert (given["session_id"], given["trace_count"]) == ("given", 3)
    assert (given["metadata"], given["sampling_params"]) == ({"task": "t-1"}, {"temperature": 0})
    assert (other["session_id"], other["trace_count"]) == ("other", 1)
    traces = await read(live, "/sessions/given/traces")
    assert [len(one["messages"]) for one in traces] == [1, 3, 5]
    [reward] = await read(live, "/sessions/given/rewards")
    assert (reward["value"], reward["source"]) == (0.5, "judge")
    [total] = (await read(live, "/v1/usage"))["totals"]
    assert (total["requests"], total["total_tokens"]) == (4, 195)
    assert (total["repeated"], total["wasted_tokens"]) == (0, 0)
    [item] = (await read(live, "/monitor/key_usage"))["items"]
    assert (item["request_total"], item["total_tokens"]) == (4, 195.0)
    [worker] = await read(live, "/admin/workers")
    assert (worker["worker_id"], worker["weight"]) == ("w0", 3)


async def test_calls_are_recorded_in_an_older_file(
    gateway_for: GatewayFor, simulator: Simulator, older: Path
) -> None:
    live = await started(gateway_for, simulator, older)
    body = {"messages": [dict(one) for one in MESSAGES], "max_tokens": 4}
    answer = await live.client.post("/sessions/given/v1/chat/completions", json=body)
    used = answer.json()["usage"]["total_tokens"]
    await live.gateway.storage.flush()
    assert len(await read(live, "/sessions/given/traces")) == 4
    [total] = (await read(live, "/v1/usage"))["totals"]
    assert (total["requests"], total["total_tokens"]) == (5, 195 + used)
    [changes] = await select(older, [LIMITS], "SELECT count FROM limits_changes")
    assert changes == [(5,)], "one for each call"
