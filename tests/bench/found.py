"""What was measured: the readings of each work of each system, and what else has to be known."""

import os
import platform
from collections.abc import Iterator
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

    `builds` are earlier ones of the gateway. `configurations` are what systems were given in a
    file, `problems` what makes figures doubtful.
    """

    date: str
    machine: Machine
    rounds: int
    seconds: float
    rows: list[str]
    builds: list[str] = []
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
        """Over the rounds that are of use; None if nothing was measured in them."""
        known = self.values(system, work, figure)
        return median(known) if known else None

    def values(self, system: str, work: str, figure: str) -> list[float]:
        """Those of the rounds that are of use."""
        readings = [reading for reading in self.readings_of(system, work) if not reading.useless]
        found = [getattr(reading, figure) for reading in readings]
        return [value for value in found if value is not None]

    def readings_of(self, system: str, work: str) -> list[Reading]:
        """None, if it was not measured."""
        for one in self.readings:
            if (one.system, one.work) == (system, work):
                return one.rounds
        return []

    def useless(self) -> Iterator[tuple[Readings, int, str]]:
        """The rounds that are left out of medians, counted from 1, and why they are."""
        for one in self.readings:
            for number, reading in enumerate(one.rounds, 1):
                if reading.useless:
                    yield one, number, reading.useless
