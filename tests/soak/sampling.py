"""What is seen of a gateway's process from outside: /proc, its files, its metrics."""

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import msgspec

MIB = 1024 * 1024

METRIC = re.compile(r"^(\w+)(?:\{[^}]*\})? ([0-9.e+-]+)$", re.MULTILINE)


class Sample(msgspec.Struct, kw_only=True):
    """At a moment. `at` and `cpu` are seconds, since the soak began and in all; sizes are bytes.

    `connections` are those to workers, `tasks` those of the event loop; `callers` are how many ask
    then, `calls` those that are over.
    """

    at: float
    rss: int
    pss: int
    fds: int
    threads: int
    cpu: float
    connections: int
    wal: int
    database: int
    tasks: int = 0
    in_flight: int = 0
    queue: int = 0
    waiting: int = 0
    callers: int = 0
    calls: int = 0

    @property
    def busy(self) -> int:
        """What is nothing when there is nothing to do."""
        return self.in_flight + self.queue + self.waiting


def of_process(pid: int, at: float, database: Path, ports: Iterable[int]) -> Sample:
    """Raises OSError where it is gone."""
    folder = Path(f"/proc/{pid}")
    told = (folder / "smaps_rollup").read_text(encoding="ascii")
    sizes = {name: int(size) * 1024 for name, size in re.findall(r"(\w+): +(\d+) kB", told)}
    fields = (folder / "stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return Sample(
        at=round(at, 1),
        rss=sizes["Rss"],
        pss=sizes["Pss"],
        fds=sum(1 for _ in (folder / "fd").iterdir()),
        threads=int(fields[17]),
        cpu=(int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"),
        connections=_connections(folder, {f"{port:04X}" for port in ports}),
        wal=size_of(database.with_name(f"{database.name}-wal")),
        database=size_of(database),
    )


def _connections(folder: Path, ports: set[str]) -> int:
    """Established ones of the machine to these ports of it."""
    lines = (folder / "net" / "tcp").read_text(encoding="ascii").splitlines()[1:]
    fields = (line.split() for line in lines)
    return sum(one[3] == "01" and one[2].rpartition(":")[2] in ports for one in fields)


def size_of(file: Path) -> int:
    """0 where there is none."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def metrics_of(scraped: bytes) -> Mapping[str, float]:
    """The sum of each metric over its labels."""
    sums: dict[str, float] = {}
    for name, value in METRIC.findall(scraped.decode()):
        sums[name] = sums.get(name, 0.0) + float(value)
    return sums


class Slope(NamedTuple):
    """In units of y by units of x; it is above `least` with a confidence of 97.5%."""

    median: float
    least: float


def slope_of(points: Sequence[tuple[float, float]]) -> Slope:
    """The median of the slopes between all pairs, and the bound that their ranks give.

    Theil 1950; Sen, Estimates of the regression coefficient based on Kendall's tau, 1968. The
    points' x rise. Of less than two of them there is no slope, and of few no bound.
    """
    slopes = sorted(
        (y2 - y1) / (x2 - x1)
        for number, (x1, y1) in enumerate(points)
        for x2, y2 in points[number + 1 :]
    )
    if not slopes:
        return Slope(0.0, -math.inf)
    count = len(points)
    spread = 1.96 * math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    rank = int((len(slopes) - spread) / 2)
    return Slope(median(slopes), slopes[rank] if rank >= 0 else -math.inf)
