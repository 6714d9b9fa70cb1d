"""What a long queue costs: `python -m batch.measure.scale [--items 1000000] [--rounds 200]`.

Files with 1,000 items and ten times as many each, up to `--items`, of five keys and three models.
CPU times are those of the thread that claims, as medians; each round measures every file once, so
that what else the machine does concerns all of them. A gateway is started with the largest file.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
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
    for key in range(KEYS):  # so that the files differ in nothing else
        for model in range(MODELS):
            queue.submit(f"k{key}", f"m{model}", items=AT_ONCE, body=body(key))
    return Lane(items, path, queue, {}), db


def timed(lane: Lane, name: str, work: Callable[[], object]) -> None:
    db = lane.queue.db
    db.execute("BEGIN IMMEDIATE")
    begun = time.thread_time()
    work()
    lane.times.setdefault(name, []).append(time.thread_time() - begun)
    db.execute("COMMIT")


def measure(lanes: Sequence[Lane], rounds: int) -> None:
    """Claim one and many items and end them, and look at the queue as callers do."""
    processes = [lane.queue.process() for lane in lanes]
    few = [lane.queue.submit("few", "m0", items=40)[0] for lane in lanes]
    for number in range(rounds):
        for lane, process, item_id in zip(lanes, processes, few, strict=True):
            queue = lane.queue
            queue.now += 0.01
            many = AT_ONCE if number % 10 == 0 else 1
            timed(lane, f"claim {many}", lambda: queue.claim(process, 1_000, many))  # noqa: B023
            for item in list(process.running):
                timed(lane, "settle 1", lambda: queue.settle(process, item))  # noqa: B023
            timed(lane, "submit 1", lambda: queue.submit_now("k0", "m0", body(0)))  # noqa: B023
            item = queue.item(item_id)
            timed(lane, "place", lambda: reading.place_of(queue.db, item))  # noqa: B023
            for wanted in (reading.Wanted(owner="few"), reading.Wanted(model="m1", state=0)):
                timed(lane, "list 20", lambda: reading.items_of(queue.db, wanted, 20))  # noqa: B023
    for process in processes:
        process.holder.end(lanes[0].queue.db)
        process.holder.close()


async def start(path: Path) -> tuple[float, Process, int]:
    """Start a gateway with this file, as in production; return its seconds and its memory."""
    begun = time.monotonic()
    settings = {"storage__path": str(path)}
    async with serving("http://127.0.0.1:9", "--plugin", "batch", **settings) as process:
        seconds = time.monotonic() - begun
        await asyncio.sleep(5)  # looks at the queue, and claims
        return seconds, process, process.memory()


def main() -> None:
    parser = argparse.ArgumentParser(prog="scale", description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=200)
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
        with suppress(Exception):
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.close()
    report(lanes)
    for path in (folder / "empty.db", lanes[-1].path):
        seconds, _, memory = asyncio.run(start(path))
        say(f"start with {path.stem}: {seconds:.2f} s, {memory / 2**20:.0f} MiB")


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
