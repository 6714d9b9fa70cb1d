"""docs/handover.md says what the code says, and its commands run."""

import re
import shlex
import sys
from pathlib import Path
from typing import get_args

import pytest
from gateway_plugins.trace_capture.handover.filters import ClaimFilter
from gateway_plugins.trace_capture.handover.settling import Code
from support.gateways.capturing import call, capturing
from support.manual import Manual
from support.paths import DOCS, SUPPORT
from support.records.recorded_file import Traces
from trace_capture.test_capture_manual import shell

from gateway.testing import GatewayFor

MANUAL = Manual(DOCS / "handover.md")


def first_columns() -> set[str]:
    cells = re.findall(r"^\| (`.+?) \|", MANUAL.text, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`(.+?)`", cell)}


def test_handover_manual_lists_each_condition_and_code() -> None:
    wanted = {*ClaimFilter.__struct_fields__, *get_args(Code)}
    wanted |= {f"POST /trajectories/{one}" for one in ("claim", "ack", "release", "extend")}
    assert first_columns() == wanted


async def test_handover_manual_s_commands_run(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await capturing(gateway_for, tmp_path)
    commands = MANUAL.block("sh", "/trajectories/claim", live.url).replace("curl ", "curl -fsS ")
    out = await shell(commands, tmp_path)
    assert '"receipt":"' in out
    assert '"code":"claim_unknown"' in out
    await call(live, "a-session")
    code = MANUAL.block("python", "iter_claims", live.url)
    assert "a-session [" in await shell(f"{sys.executable} -c {shlex.quote(code)}", tmp_path)


async def test_states_are_counted(
    gateway_for: GatewayFor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    live = await capturing(gateway_for, tmp_path)
    for name in "abc":
        await call(live, name)
    body = {"n": 2, "filter": {"idle_seconds": 0}}
    one, two = (await live.client.post("/trajectories/claim", json=body)).json()["claims"]
    await live.client.post("/trajectories/ack", json={"receipts": [one["receipt"]]})
    await live.client.post("/trajectories/release", json={"receipts": [two["receipt"]]})
    status, out, err = Traces(tmp_path / "traces.db", capsys)("claims")
    assert (status, err) == (0, "")
    counts = dict(re.findall(r"^(.+?) +(\d+)(?:  \S+Z)?$", out, re.MULTILINE))
    assert {name: count for name, count in counts.items() if count != "0"} == {
        "unread sessions": "1",
        "open": "1",
        "acknowledged": "1",
        "released": "1",
    }
    assert out.count("Z\n") == 4
    assert len(counts) == 9


def test_states_of_an_older_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "old.db"
    file.write_bytes((SUPPORT / "data" / "database-5e2878d.db").read_bytes())
    status, out, err = Traces(file, capsys)("claims")
    assert (status, out) == (2, "")
    assert "no gateway that hands over has used this file" in err
