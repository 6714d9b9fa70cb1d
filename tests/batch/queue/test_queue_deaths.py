"""Fault 3.5 of the contract: a process is killed at any step, and each item ends exactly once."""

import asyncio
import json
import sys
from pathlib import Path

from support.paths import SUPPORT

ITEMS = 1_000


async def test_fault_3_5_items_end_once_whatever_statement_a_process_is_killed_at(
    tmp_path: Path,
) -> None:
    script = SUPPORT / "batch" / "dying_process.py"
    command = (sys.executable, str(script), str(tmp_path / "gateway.db"), str(ITEMS), "1")
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    said, complaints = await process.communicate()
    assert process.returncode == 0, complaints.decode()
    assert json.loads(said)["died"] > 20
