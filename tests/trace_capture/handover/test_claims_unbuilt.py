"""Claims whose trajectories could not be built: none stays leased to nobody."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from gateway_plugins.trace_capture import TraceCapture
from gateway_plugins.trace_capture.handover import queue, reading
from support.gateways.capturing import call, capturing

from gateway import StorageError
from gateway.testing import GatewayFor, Live

NOW: dict[str, Any] = {"idle_seconds": 0}
STATES = "SELECT state, count(*) FROM handover_claims GROUP BY state"


async def claim(live: Live, n: int = 9) -> Any:
    return await live.client.post("/trajectories/claim", json={"n": n, "filter": NOW})


async def states(live: Live) -> dict[int, int]:
    return await live.gateway.storage.read(lambda db: dict(db.select(STATES)))


def counts(live: Live) -> Counter[str]:
    return live.plugin(TraceCapture).claim_counts


async def test_an_error_while_claims_are_built_leaves_nothing_leased(
    gateway_for: GatewayFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = await capturing(gateway_for, tmp_path)
    for name in "ab":
        await call(live, name)

    def fail(db: Any, claims: Any) -> Any:
        raise StorageError("the disk does not answer")

    monkeypatch.setattr(queue, "read", fail)
    assert (await claim(live)).status_code >= 500
    assert await states(live) == {}
    monkeypatch.undo()
    found = (await claim(live)).json()["claims"]
    assert [one["deliveries"] for one in found] == [1, 1]
    assert counts(live)["claimed"] == 2


async def test_claims_that_no_response_had_room_for_are_not_counted(
    gateway_for: GatewayFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = await capturing(gateway_for, tmp_path)
    for name in "abc":
        await call(live, name)
    monkeypatch.setattr(reading, "MAX_BYTES", 1)
    [first] = (await claim(live)).json()["claims"]
    assert (counts(live)["claimed"], counts(live)["released"]) == (1, 0)
    monkeypatch.undo()
    rest = (await claim(live)).json()["claims"]
    assert [one["deliveries"] for one in [first, *rest]] == [1, 1, 1]
    assert counts(live)["claimed"] == 3


async def test_a_damaged_session_leaves_the_queue(
    gateway_for: GatewayFor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    live = await capturing(gateway_for, tmp_path)
    for name in "ab":
        await call(live, name)
    found = (await claim(live)).json()["claims"]
    receipts = [one["receipt"] for one in found]
    await live.client.post("/trajectories/release", json={"receipts": receipts})
    damage = "UPDATE traces SET content = :bad WHERE session_id = 'a'"
    await live.gateway.storage.write(lambda db: db.execute(damage, {"bad": b"\1\2\3"}))
    first = (await claim(live, 1)).json()
    assert (first["claims"], first["more"]) == ([], True)
    [other] = (await claim(live, 1)).json()["claims"]
    assert other["session_id"] == "b"
    assert (await claim(live)).json()["claims"] == []
    assert counts(live)["unreadable"] == 1
    assert [one.message for one in caplog.records if "'a'" in one.message] == [
        one.message for one in caplog.records if "nobody gets them" in one.message
    ]
    assert sum("nobody gets them" in one.message for one in caplog.records) == 1
    assert (await states(live))[5] == 1, "no lease of it can end"
