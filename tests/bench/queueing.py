"""What the queue costs: CPU for each call that goes by, and for each slot given to who waits.

    python tests/bench/queueing.py

Calls are as the core makes them, their workers take and give slots, and nothing is sent. A grant is
counted from a slot's coming free to the waiting call's taking it, task switches included.
"""

import argparse
import asyncio
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from time import process_time

import uvloop
from gateway_plugins.backpressure.gate import Gate
from gateway_plugins.backpressure.options import Options, QueueOptions
from gateway_plugins.backpressure.order import Ticket

from gateway import Attempt, Call, ChooseAgain, Principal, Worker, Workers
from gateway.config import Config
from gateway.config import Worker as WorkerConfig
from gateway.testing import make_call

FLOWS: dict[str, Callable[[int], tuple[str, str | None]]] = {
    "one flow": lambda at: ("p", None),
    "a session each": lambda at: ("p", f"s{at}"),
    "30 principals, 4 calls a session": lambda at: (f"p{at % 30}", f"s{at // 4}"),
    "a principal each": lambda at: (f"p{at}", f"s{at}"),
}


class Bench:
    """A gate before workers of `slots` each, and the calls that hold one."""

    def __init__(self, workers: int, slots: int = 2) -> None:
        urls = (WorkerConfig(url=f"http://w{at}", worker_id=f"w{at}") for at in range(workers))
        self.workers = Workers(Config(workers=tuple(urls)))
        queue = QueueOptions(max_length=1_000_000, max_wait=1e6)
        self.gate = Gate(Options(max_in_flight_per_worker=slots, queue=queue), self.workers)
        self.gate.open()
        self.held: deque[tuple[Worker, Ticket]] = deque()

    async def carry(self, call: Call) -> None:
        """As the core does, up to the beginning of the attempt."""
        ticket = self.gate.ticket(call, 0)
        while True:
            try:
                entered = self.gate.enter(ticket, self.workers.serving().fit)
                workers = await entered if isinstance(entered, Awaitable) else entered
            except ChooseAgain:
                await asyncio.sleep(0)
                continue
            picked = self.workers.least_loaded(workers)
            if picked.begin():
                call.attempts.append(Attempt(picked, 0.0))
                self.held.append((picked, ticket))
                return

    def end_one(self) -> None:
        worker, ticket = self.held.popleft()
        worker.end()
        self.gate.done(ticket)


def calls(count: int, flow: Callable[[int], tuple[str, str | None]]) -> list[Call]:
    made: list[Call] = []
    for at in range(count):
        principal, session = flow(at)
        made.append(make_call(session_id=session))
        made[-1].principal = Principal(principal)
    return made


async def grant_cost(
    waiting: int, workers: int, flow: Callable[[int], tuple[str, str | None]]
) -> float:
    """Microseconds of CPU for each of the waiting calls."""
    bench = Bench(workers)
    made = calls(waiting + 2 * workers, flow)
    tasks = [asyncio.create_task(bench.carry(call)) for call in made]
    while bench.gate.report().length < waiting:  # noqa: ASYNC110  nothing tells of it
        await asyncio.sleep(0)
    begun = process_time()
    while bench.held:
        bench.end_one()
        for _ in range(4):
            await asyncio.sleep(0)
    spent = process_time() - begun
    await asyncio.gather(*tasks)
    return spent / waiting * 1e6


async def passing_cost(workers: int, loops: int) -> float:
    """Microseconds of CPU for a call that finds room."""
    bench = Bench(workers, slots=64)
    [call] = calls(1, FLOWS["one flow"])
    fit = bench.workers.serving().fit
    begun = process_time()
    for _ in range(loops):
        ticket = bench.gate.ticket(call, 0)
        assert bench.gate.enter(ticket, fit) is fit
        bench.gate.done(ticket)
    return (process_time() - begun) / loops * 1e6


async def measure(counts: list[int], fleets: list[int]) -> None:
    say = sys.stdout.write
    for workers in fleets:
        say(f"passing by, {workers:4} workers: {await passing_cost(workers, 50_000):6.2f} us\n")
    for name, flow in FLOWS.items():
        for waiting in counts:
            for workers in (fleets[0], fleets[-1]):
                cost = await grant_cost(waiting, workers, flow)
                say(f"a grant, {waiting:6} waiting, {workers:4} workers, {name}: {cost:6.1f} us\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--waiting", type=int, nargs="+", default=[100, 1_000, 10_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 16, 256])
    options = parser.parse_args()
    uvloop.run(measure(options.waiting, options.workers))


if __name__ == "__main__":
    main()
