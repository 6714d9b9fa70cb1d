"""What the driver of processes needs from the machine."""

import subprocess
import sys
from pathlib import Path

from support.paths import SUPPORT

GIVE_UP = """
import ctypes, os, sys
NO_NEW_PRIVILEGES, READ, DROP = 38, 23, 24
libc = ctypes.CDLL(None)
libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
for capability in range(64):
    if libc.prctl(READ, capability, 0, 0, 0) == 1:
        libc.prctl(DROP, capability, 0, 0, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""Goes on as another program, which has no capability and can get none."""


def test_fault_6_12_process_driver_needs_no_privilege(tmp_path: Path) -> None:
    """Without one capability it starts an engine, and ends one that resists with its daemon."""
    program = SUPPORT / "runtime" / "unprivileged.py"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", GIVE_UP, str(program), str(tmp_path)],
        env={"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.stdout.split(), done.stderr) == (["0000000000000000", "0"], "")
