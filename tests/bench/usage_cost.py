"""What usage costs a call: in the event loop, and in the writer's thread.

    python tests/bench/usage_cost.py [--rounds 20] [--keys 10]

CPU time; the least of all rounds counts, as what else the machine does only adds to it. The loop's
part is what the core does with the plugin's hooks for a call, less the same without the plugin: for
a plain answer, and for a short stream, whose usage is looked for; most of that is the core's, which
reads the usage for all plugins that want it. The writer's part is a call in a transaction of 1, 10
and 50 calls, less one in which nothing is written; and the sums that are made of it later, where
`keys` keys have rows already and call at random. The journal of calls in flight is by itself: a
call's beginning and end there, and a round of notes.
"""

import argparse
import asyncio
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
from gateway_plugins.usage.flight import Flight
from gateway_plugins.usage.journal import Journal
from gateway_plugins.usage.ledger import ROW_SIZE, Ledger, Row, row_of
from gateway_plugins.usage.schema import MIGRATIONS
from gateway_plugins.usage.summing import sum_some

from gateway import Gateway, Principal
from gateway.call import Attempt
from gateway.config import Config, Probes, Worker
from gateway.storage.file import Connection, open_for_writing, prepare_file
from gateway.storage.writer import Entry, Tally, change, commit
from gateway.testing import DONE, RecordedCall, entry, make_call, sse

LOOPS = 1_000
PLAIN = ((b"content-type", b"application/json"),)
STREAM = ((b"content-type", b"text/event-stream"),)
USAGE = {"prompt_tokens": 17, "completion_tokens": 4, "total_tokens": 21}
ANSWER = msgspec.json.encode(
    {"choices": [{"message": {"content": "word " * 50}}], "model": "sim", "usage": USAGE}
)
EVENT = sse({"choices": [{"index": 0, "delta": {"content": "token"}}]})
EVENTS = (*[EVENT] * 8, sse({"choices": [], "usage": USAGE}) + DONE)


def gateway_with(*plugins: str) -> Gateway:
    probes = Probes(interval=None, models=None)
    workers = (Worker(url="http://127.0.0.1:1", models=("sim",)),)
    return Gateway(Config(workers=workers, plugins=tuple(map(entry, plugins)), probes=probes))


def calls_of(gateway: Gateway, keys: int) -> list[RecordedCall]:
    calls = [make_call() for _ in range(LOOPS)]
    [worker] = gateway.workers.all
    for number, call in enumerate(calls):
        call.chains = gateway.chains
        call.principal = Principal(f"key-{number % keys}")
        call.attempts.append(Attempt(worker, call.started, status=200))
        call.outcome.status, call.outcome.complete = 200, True
        _ = call.trace_id, call.model  # which the core, or any other plugin, has had made
    return calls


async def carry(gateway: Gateway, calls: list[RecordedCall], chunks: Sequence[bytes]) -> float:
    """Seconds of what the core does with the hooks, see Proxy._answer and _record."""
    chains, headers = gateway.chains, PLAIN if len(chunks) == 1 else STREAM
    began = time.thread_time()
    for call in calls:
        await chains.decide(call)
        call.observers = chains.observers(call)
        if chains.handle:
            await chains.first_answer(call)
        if call.observers.started:
            call.observers.tell_started(200, headers)
        if call.observers.data:
            for chunk in chunks:
                call.observers.tell_data(chunk)
        call.observers.tell_finished()
        if chains.call_finished:
            await chains.tell_call(call)
    return time.thread_time() - began


async def cost_in_the_loop(rounds: int, keys: int, chunks: Sequence[bytes]) -> float:
    """Seconds that the plugin adds to a call."""
    without, with_it = gateway_with(), gateway_with("usage")
    least = [float("inf")] * 2
    for _ in range(rounds):
        for place, gateway in enumerate((without, with_it)):
            took = await carry(gateway, calls_of(gateway, keys), chunks)
            least[place] = min(least[place], took)
    return (least[1] - least[0]) / LOOPS


class Nothing(Ledger):
    """A sink that takes rows and leaves them."""

    def write(self, db: sqlite3.Connection, rows: Sequence[Row]) -> None:
        pass


def call_id() -> bytes:
    """One that begins with the time, as those of calls do."""
    return time.time_ns().to_bytes(8, "big") + random.randbytes(8)


def rows_of(keys: int) -> list[Row]:
    call = calls_of(gateway_with(), 1)[0]
    one = row_of(call, call.outcome, "", "sim")
    return [
        one._replace(id=call_id(), time=time.time(), key=f"key-{random.randrange(keys)}")
        for _ in range(LOOPS)
    ]


def cost_in_the_writer(db: Connection, rounds: int, keys: int, group: int) -> float:
    """Seconds that a call of such a group adds."""
    least = [float("inf")] * 2
    for _ in range(rounds):
        for place, sink in enumerate((Nothing(), Ledger())):
            rows = rows_of(keys)
            began = time.thread_time()
            for start in range(0, LOOPS, group):
                entries = [Entry(sink, row, ROW_SIZE) for row in rows[start:][:group]]
                commit(db, entries, Tally())
            least[place] = min(least[place], time.thread_time() - began)
    return (least[1] - least[0]) / LOOPS


def cost_of_sums(db: Connection, rounds: int, keys: int) -> float:
    """Seconds for each call."""
    least = float("inf")
    for _ in range(rounds):
        commit(
            db, [Entry(Ledger(), row, ROW_SIZE) for _ in range(2) for row in rows_of(keys)], Tally()
        )
        began = time.thread_time()
        while change(db, sum_some):
            pass
        least = min(least, time.thread_time() - began)
    return least / (2 * LOOPS)


def costs_of_the_journal(rounds: int) -> tuple[float, float]:
    """Seconds for each call, and for noting something new of all LOOPS that are in flight."""
    calls, least, noting = calls_of(gateway_with(), 10), float("inf"), float("inf")
    with tempfile.TemporaryDirectory() as folder:
        flight = Flight(Journal(Path(folder, "usage.db"), LOOPS))
        for _ in range(rounds):
            began = time.thread_time()
            for call in calls:
                flight.begin(call, "key-1")
            noted = time.thread_time()
            flight.note()
            ended = time.thread_time()
            for call in calls:
                flight.over(bytes.fromhex(call.trace_id))
                flight.ended(bytes.fromhex(call.trace_id))
            noting = min(noting, ended - noted)
            least = min(least, time.thread_time() - ended + noted - began)
        flight.close()
    return least / LOOPS, noting


@contextmanager
def file_of(keys: int) -> Iterator[Connection]:
    """One in which each key has sums."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "usage.db")
        prepare_file(path)
        with closing(open_for_writing(path, "process", [MIGRATIONS])) as db:
            one = rows_of(1)[0]
            rows = [one._replace(id=call_id(), key=f"key-{n}") for n in range(keys)]
            change(db, lambda db: Ledger().write(db, rows))
            while change(db, sum_some):
                pass
            yield db


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--keys", type=int, default=10)
    given = parser.parse_args()
    for name, chunks in (("plain", (ANSWER,)), ("stream", EVENTS)):
        cost = await cost_in_the_loop(given.rounds, given.keys, chunks)
        sys.stdout.write(f"loop, {name}: {cost * 1e6:.2f} us\n")
    cost, noting = costs_of_the_journal(given.rounds)
    sys.stdout.write(f"journal: {cost * 1e6:.2f} us\n")
    sys.stdout.write(f"notes of {LOOPS} calls in flight: {noting * 1e3:.2f} ms, 10 a second\n")
    with file_of(given.keys) as db:
        for group in (1, 10, 50):
            cost = cost_in_the_writer(db, given.rounds, given.keys, group)
            sys.stdout.write(f"writer, groups of {group}: {cost * 1e6:.2f} us\n")
        sys.stdout.write(f"sums: {cost_of_sums(db, given.rounds, given.keys) * 1e6:.2f} us\n")


if __name__ == "__main__":
    asyncio.run(main())
