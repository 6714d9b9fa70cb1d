"""What a process has used: seconds of CPU, or instructions.

Virtual machines mostly have no counters of instructions, so callgrind (`valgrind`) counts them: in
a process that it runs, and those of the program itself, not of the kernel.
"""

import os
import subprocess
import time
from pathlib import Path

CALLGRIND = ("valgrind", "--tool=callgrind", "--instr-atstart=no")
"""Runs a program; `--callgrind-out-file=FOLDER/counted` has to follow."""


def cpu(pid: int) -> float:
    """Seconds of CPU of all threads of the process, to the nanosecond: user and system time."""
    return time.clock_gettime((~pid << 3) | 2)  # as clock_getcpuclockid(3) makes it


class Instructions:
    """Those of this process, which CALLGRIND runs, while a block lasts; then in `counted`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.counted = 0

    def __enter__(self) -> None:
        _tell("-i", "on")

    def __exit__(self, *_: object) -> None:
        _tell("-i", "off")
        _tell("-d")
        latest = max(self._folder.glob("counted.*"), key=lambda one: int(one.suffix[1:]))
        [total] = [line for line in latest.read_text().splitlines() if line.startswith("totals:")]
        self.counted = int(total.split()[1])


def _tell(*words: str) -> None:
    command = ["callgrind_control", *words, str(os.getpid())]
    subprocess.run(command, check=True, capture_output=True)
