"""docs/handover.md says what the code says, and its commands run."""

import re
import shlex
import sys
from pathlib import Path
from typing import get_args

from gateway_plugins.trace_capture.handover.filters import ClaimFilter
from gateway_plugins.trace_capture.handover.settling import Code
from support.gateways.capturing import call, capturing
from support.manual import Manual
from support.paths import DOCS
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
