"""Traces that an earlier version stored get what is searched of them."""

import sqlite3
from pathlib import Path

from gateway_plugins.trace_capture.store.facts_of_old import BATCH, fill_facts
from support.gateways.capturing import call, capturing
from support.plugins.recording_plugin import Watcher

from gateway import Trace, hookimpl
from gateway.testing import GatewayFor, Live

FORGET = (
    "UPDATE traces SET worker = NULL, version = NULL, harness = NULL, sampled = NULL,"
    " trainable = NULL, reasons = NULL"
)


class Changes:
    """A hook that changes what is stored, so that the row has the whole trace."""

    @hookimpl
    def redact_trace(self, trace: Trace) -> Trace:
        trace.messages = []
        return trace


async def as_before(live: Live) -> None:
    """The file as an earlier version has left it."""
    await live.gateway.storage.write(
        lambda db: (
            db.execute(FORGET),
            db.execute("UPDATE sessions SET sampled = 0, trainable = 0"),
        )
    )


async def search(live: Live, **query: str) -> list[tuple[str, int, int]]:
    found = (await live.client.get("/sessions", params=query)).json()
    return [(one["session_id"], one["sampled_tokens"], one["trainable_tokens"]) for one in found]


async def test_old_traces_are_found_after_a_restart(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path, Watcher)
    await live.client.post("/admin/weight_version", json={"weight_version": 7})
    for number in range(3):
        await call(live, f"s{number}")
    [worker] = live.gateway.workers.all
    await as_before(live)
    assert await search(live, worker=worker.id) == []
    await fill_facts(live.gateway.storage)
    expected = [(f"s{number}", 3, 3) for number in range(3)]
    assert await search(live, worker=worker.id, weight_version="7") == expected
    await fill_facts(live.gateway.storage)
    assert await search(live, worker=worker.id) == expected, "each is filled once"


async def test_old_traces_that_a_hook_changed_are_found(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path, Changes)
    await call(live, "s")
    [worker] = live.gateway.workers.all
    assert await search(live, worker=worker.id) == [("s", 3, 3)]
    await as_before(live)
    await fill_facts(live.gateway.storage)
    assert await search(live, worker=worker.id) == [("s", 3, 3)]


async def test_damaged_old_traces_hold_up_nothing(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await capturing(gateway_for, tmp_path)
    for _ in range(3):
        await call(live, "s")
    await as_before(live)
    damage = "UPDATE traces SET content = :bad WHERE number = 2"
    await live.gateway.storage.write(lambda db: db.execute(damage, {"bad": b"\1\2\3"}))
    await fill_facts(live.gateway.storage)
    assert await search(live) == [("s", 6, 6)]
    with sqlite3.connect(tmp_path / "traces.db") as db:
        assert db.execute("SELECT worker FROM traces WHERE number = 2").fetchone() == ("",)
    db.close()
    assert BATCH > 3
