"""What the plugin keeps of calls that ended while the database could not be written."""

import time
from pathlib import Path
from typing import Any

import pytest
from gateway_plugins.budgets import Budgets, ledger
from gateway_plugins.budgets.ledger import Kind, Settled
from gateway_plugins.budgets.need import Amounts
from support.gateways.capturing import CAPTURE
from support.plugins.recording_plugin import until

from gateway import Database
from gateway.testing import GatewayFor, Live, entry

NAME: tuple[Kind, str] = ("session", "one")
HELD = Amounts(1, 100, 50, 0)


@pytest.fixture(autouse=True)
def frequent_upkeep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway_plugins.budgets.UPKEEP", 0.05)


async def gateway_with_an_end(
    gateway_for: GatewayFor, storage: dict[str, Any], used: Amounts, refusing: str
) -> Live:
    """Start a gateway whose database refuses `refusing`; the end of a call is owed to it."""
    live = await gateway_for("sessions", CAPTURE, entry(Budgets), storage=storage)
    plugin = live.plugin(Budgets)

    def begin(db: Database) -> None:
        ledger.reserve(db, [NAME], plugin._owner, HELD, time.time())
        db.execute(refusing)

    await live.gateway.storage.write(begin)
    plugin._ledger.owed.append(Settled((NAME,), plugin._owner, HELD, used, 2.0))
    return live


async def spent_calls(live: Live) -> tuple[Amounts, Amounts]:
    found = await live.gateway.storage.read(lambda db: ledger.spent(db, *NAME, time.time()))
    return found.spent, found.reserved


async def test_ends_that_could_not_be_stored_are_stored_later(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    refusing = (
        "CREATE TRIGGER full BEFORE UPDATE ON budget_spent"
        " BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
    )
    used = Amounts(1, 30, 10, 0)
    storage = {"path": str(tmp_path / "g.db")}
    live = await gateway_with_an_end(gateway_for, storage, used, refusing)
    plugin = live.plugin(Budgets)
    await until(lambda: plugin.health() is not None)
    assert await spent_calls(live) == (Amounts(), HELD), "the transaction was rolled back"
    await live.gateway.storage.write(lambda db: db.execute("DROP TRIGGER full"))
    await until(lambda: not plugin._ledger.owed)
    assert await spent_calls(live) == (used, Amounts())


async def test_upkeep_goes_on_after_any_fault(gateway_for: GatewayFor) -> None:
    live = await gateway_for("sessions", CAPTURE, entry(Budgets))
    plugin = live.plugin(Budgets)
    used = Amounts(1, 1 << 70, 10, 0)
    good = Settled((NAME,), plugin._owner, HELD, used, time.time())
    bad = Settled((("session", "\ud800"),), plugin._owner, HELD, used, time.time())
    plugin._ledger.owed += [good, bad]
    await until(lambda: plugin.health() is not None)
    assert "UnicodeEncodeError" in (plugin.health() or "")
    plugin._ledger.owed.remove(bad)
    await until(lambda: plugin.health() is None)
    assert await spent_calls(live) == (Amounts(1, ledger.MOST, 10, 0), Amounts())


async def test_refused_budget_puts_a_session_in_no_run(gateway_for: GatewayFor) -> None:
    live = await gateway_for("sessions", entry(Budgets))
    wrong = {"run_id": "r", "max_cost": 1}
    refused = await live.client.post("/budgets/sessions/one", json=wrong)
    assert refused.status_code == 400
    assert (await live.client.get("/budgets/sessions/one")).json()["run_id"] is None
