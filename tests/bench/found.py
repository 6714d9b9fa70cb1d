"""What was measured: the readings of each work of each system, and what else has to be known."""

import os
import platform
from pathlib import Path
from statistics import median

import msgspec

from bench.works import Reading


class Readings(msgspec.Struct, frozen=True):
    """One for each round."""

    system: str
    work: str
    rounds: list[Reading]


class Machine(msgspec.Struct, frozen=True):
    processor: str
    processors: int
    kernel: str
    python: str

    @classmethod
    def this(cls) -> "Machine":
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        return cls(
            names[0] if names else platform.machine(),
            os.cpu_count() or 1,
            platform.release(),
            platform.python_version(),
        )


class Found(msgspec.Struct, kw_only=True):
    """A run. `left_out` are systems that could not be measured, and why.

    `configurations` are what systems were given in a file, `problems` what makes figures doubtful.
    """

    date: str
    machine: Machine
    rounds: int
    seconds: float
    rows: list[str]
    versions: dict[str, str] = {}
    configurations: dict[str, str] = {}
    left_out: dict[str, str] = {}
    readings: list[Readings] = []
    problems: list[str] = []

    def of(self, system: str, work: str) -> list[Reading]:
        """In the order of the rounds; the list is the one that is kept."""
        for one in self.readings:
            if (one.system, one.work) == (system, work):
                return one.rounds
        self.readings.append(Readings(system, work, []))
        return self.readings[-1].rounds

    def median(self, system: str, work: str, figure: str) -> float | None:
        """Over the rounds; None where nothing was measured."""
        found = [
            getattr(reading, figure)
            for one in self.readings
            if (one.system, one.work) == (system, work)
            for reading in one.rounds
        ]
        known = [value for value in found if value is not None]
        return median(known) if known else None
