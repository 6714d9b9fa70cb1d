"""What a long queue costs: `python -m batch.measure.scale [--items 1000000] [--rounds 100]`.

Files with 1,000 items and ten times as many each, up to `--items`, of five keys and three models.
CPU times are those of the thread that claims, as medians; each round measures every file once, so
that what else the machine does concerns all of them. A gateway is started with the largest file.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec
from gateway_plugins.batch.queue import reading
from gateway_plugins.batch.queue.schema import MIGRATIONS
from support.gateways.serving_process import Process, serving
from support.records.a_queue import AQueue

from gateway.storage.sqlite.connection import Connection
from gateway.storage.sqlite.file import open_for_writing

KEYS, MODELS = 5, 3
SLICE = 1_000
AT_ONCE = 64
"""Items of a claim."""

SPARE = 4 * AT_ONCE
"""Further items of each lane of each file, so that the smallest one has some left at the end."""

RARE = 3
"""Rounds of which one claims so many."""

SETTLED = 5.0
"""Seconds after the start, in which a gateway looks at the queue several times."""

PROMPT = "Write a few lines about a ferry that leaves the harbour at night, in the year {}."


class Lane(msgspec.Struct):
    """One file, its queue, and the CPU seconds of each thing done."""

    items: int
    path: Path
    queue: AQueue
    times: dict[str, list[float]]

    def median(self, name: str) -> float:
        """Microseconds."""
        return statistics.median(self.times[name]) * 1e6


def body(number: int) -> bytes:
    messages = [{"role": "user", "content": PROMPT.format(number)}]
    request = {"model": "m0", "messages": messages, "max_tokens": 64, "temperature": 0.7}
    return json.dumps(request).encode()


def filled(path: Path, items: int) -> tuple[Lane, Connection]:
    """Items that came one slice after the other, from one key after the other."""
    db = open_for_writing(path, "process", [MIGRATIONS])
    queue = AQueue(path, db)
    for start in range(0, items, SLICE):
        queue.now += 0.1
        turn = start // SLICE
        many = min(SLICE, items - start)
        key, model = f"k{turn % KEYS}", f"m{turn % MODELS}"
        queue.submit(key, model, items=many, body=body(start))
    for turn in range(KEYS * MODELS):  # so that the files have the same lanes
        queue.submit(f"k{turn % KEYS}", f"m{turn % MODELS}", items=SPARE, body=body(turn))
    return Lane(items, path, queue, {}), db


class Measuring:
    """What callers and the process of one file do, again and again."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._queue = lane.queue
        self._process = lane.queue.process()
        [self._last] = lane.queue.submit("few", "m0", items=40)[-1:]

    def round(self, many: int) -> None:
        """Claim so many items and end them, submit another, and look at the queue."""
        queue, process = self._queue, self._process
        queue.now += 0.01
        self._time(f"claim {many}", lambda: queue.claim(process, 1_000, many))
        for item in list(process.running):
            self._time("settle 1", partial(queue.settle, process, item))
        self._time("submit 1", lambda: queue.submit_now("k0", "m0", body(0)))
        found = queue.item(self._last)
        self._time("place", lambda: reading.place_of(queue.db, found))
        for wanted in (reading.Wanted(owner="few"), reading.Wanted(model="m1", state=0)):
            self._time("list 20", partial(reading.items_of, queue.db, wanted, 20))

    def _time(self, name: str, work: Callable[[], object]) -> None:
        db = self._queue.db
        db.execute("BEGIN IMMEDIATE")
        begun = time.thread_time()
        work()
        self._lane.times.setdefault(name, []).append(time.thread_time() - begun)
        db.execute("COMMIT")

    def end(self) -> None:
        self._process.holder.end(self._queue.db)
        self._process.holder.close()


def measure(lanes: Sequence[Lane], rounds: int) -> None:
    all_of_them = [Measuring(lane) for lane in lanes]
    for number in range(rounds):
        for one in all_of_them:
            one.round(AT_ONCE if number % RARE == 0 else 1)
    for one in all_of_them:
        one.end()


async def start(path: Path) -> str:
    """Start a gateway with this file; return how long that took, and what it holds then."""
    begun = time.monotonic()
    settings = {"storage__path": str(path)}
    async with serving("http://127.0.0.1:9", "--plugin", "batch", **settings) as process:
        seconds, cpu = time.monotonic() - begun, cpu_of(process)
        await asyncio.sleep(SETTLED)
        memory = process.memory() / 2**20
        return f"{seconds:.2f} s ({cpu:.2f} s of CPU), {memory:.0f} MiB {SETTLED:.0f} s later"


def cpu_of(process: Process) -> float:
    """CPU seconds that the process has used."""
    fields = Path(f"/proc/{process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2]
    user, system = fields.split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(prog="scale", description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--folder", type=Path, help="for the files; a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        run(Path(folder), options.items, options.rounds)


def run(folder: Path, items: int, rounds: int) -> None:
    sizes = [1_000]
    while sizes[-1] * 10 <= items:
        sizes.append(sizes[-1] * 10)
    both = [filled(folder / f"{size}.db", size) for size in sizes]
    lanes = [lane for lane, _ in both]
    measure(lanes, rounds)
    for _, db in both:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.close()
    report(lanes)
    for path in (folder / "empty.db", lanes[-1].path):
        say(f"start with {path.stem}: {asyncio.run(start(path))}")


def report(lanes: Sequence[Lane]) -> None:
    say("CPU µs      " + "".join(f"{lane.items:>12,}" for lane in lanes) + "   largest/smallest")
    for name in lanes[0].times:
        times = [lane.median(name) for lane in lanes]
        row = "".join(f"{one:>12,.0f}" for one in times)
        say(f"{name:12}{row}   {times[-1] / times[0]:.2f}")
    for lane in lanes:
        say(f"{lane.items:,} items: {lane.path.stat().st_size / lane.items:.0f} bytes each")


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
