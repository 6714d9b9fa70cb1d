"""What a process has used: seconds of CPU, or instructions.

Virtual machines mostly have no counters of instructions, so callgrind (`valgrind`) counts them: in
a process that it runs, and those of the program itself, not of the kernel.
"""

import subprocess
import time
from pathlib import Path

CALLGRIND = ("valgrind", "--tool=callgrind", "--instr-atstart=no", "--callgrind-out-file=counted")
"""Runs a program in whose folder the counts are written."""


def cpu(pid: int) -> float:
    """Seconds of CPU of all threads of the process, to the nanosecond: user and system time."""
    return time.clock_gettime((~pid << 3) | 2)  # as clock_getcpuclockid(3) makes it


class Instructions:
    """Those of a process that CALLGRIND runs in `folder`, while a block lasts."""

    def __init__(self, pid: int, folder: Path) -> None:
        self._pid = pid
        self._folder = folder
        self.counted = 0

    def __enter__(self) -> None:
        self._say("-i", "on")

    def __exit__(self, *_: object) -> None:
        self._say("-i", "off")
        self._say("-d")
        latest = max(self._folder.glob("counted.*"), key=lambda one: int(one.suffix[1:]))
        [total] = [line for line in latest.read_text().splitlines() if line.startswith("totals:")]
        self.counted = int(total.split()[1])

    def _say(self, *words: str) -> None:
        subprocess.run(
            ["callgrind_control", *words, str(self._pid)], check=True, capture_output=True
        )
