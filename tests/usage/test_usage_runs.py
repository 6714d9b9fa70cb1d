"""Usage of runs: what calls with the name of a run add up to."""

import json
from pathlib import Path
from typing import Any

import pytest
from gateway_plugins.usage.ledger.retention import Keep, Upkeep
from support.gateways.capturing import chat

from gateway.cli import main
from gateway.testing import GatewayFor, Live


async def ask(live: Live, run: str = "", **fields: Any) -> int:
    """Make a call, and return its total tokens."""
    headers = {"x-run-id": run} if run else {}
    answer = await live.client.post("/v1/chat/completions", json=chat(**fields), headers=headers)
    assert answer.status_code == 200, answer.text
    total: int = answer.json()["usage"]["total_tokens"]
    return total


async def test_usage_by_run_is_that_of_its_calls(
    gateway_for: GatewayFor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "g.db")
    live = await gateway_for("sessions", "trace_capture", "usage", storage={"path": path})
    one = [await ask(live, "one") for _ in range(3)]
    two = await ask(live, "two", max_tokens=7, ignore_eos=True)
    await ask(live)
    first = (await live.client.get("/monitor/run_usage", params={"limit": 1})).json()
    assert [(row["run"], row["model"]) for row in first["data"]] == [("one", "sim")]
    assert first["data"][0]["requests"] == 3
    assert first["data"][0]["total_tokens"] == sum(one)
    after = {"cursor": first["next_cursor"]}
    rest = (await live.client.get("/monitor/run_usage", params=after)).json()
    assert [row["total_tokens"] for row in rest["data"]] == [two]
    assert rest["next_cursor"] is None
    of_two = (await live.client.get("/monitor/run_usage", params={"run": "two"})).json()
    assert of_two["data"] == rest["data"]

    def told(*arguments: str) -> str:
        with pytest.raises(SystemExit, match="0"):
            main(["usage", "--storage-path", path, *arguments])
        return capsys.readouterr().out

    rows = [json.loads(line) for line in told("--by", "run,day", "--json").splitlines()]
    assert [(row["run"], row["total_tokens"]) for row in rows] == [("one", sum(one)), ("two", two)]
    assert told("--by", "run", "--since", "20990101", "--json") == ""
    assert "one" in told("--by", "run", "--until", str(rows[0]["day"]))


async def test_runs_go_with_the_rows_of_their_calls(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    storage = {"path": str(tmp_path / "g.db")}
    live = await gateway_for("sessions", "trace_capture", "usage", storage=storage)
    for run in ("one", "two"):
        await ask(live, run)
    await live.client.post("/admin/flush")
    upkeep = Upkeep(live.gateway.storage, Keep(None, 1))
    await upkeep.run_once(4e9)
    kept = await live.gateway.storage.read(lambda db: list(db.select("SELECT 1 FROM usage_runs")))
    assert kept == []
