"""What the metrics cost a call, an event of a stream, and the scraper.

    python tests/bench/metrics_cost.py [--rounds 20]

CPU time of this thread; the least of all rounds counts, as what else the machine does only adds to
it. A call is what the core does with the plugin's hooks for it, less the same without the plugin;
`large` has a body of 20 kB, in which the plugin looks for the model. The scrape tells of 1,000
combinations of route, model and worker, the most there can be: `held` is the part of it in which
the event loop does nothing else.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Callable

import msgspec
from gateway_plugins.metrics.families import checked
from gateway_plugins.metrics.tally import MAX_SERIES, Tally
from gateway_plugins.metrics.watch import Watch
from prometheus_client.exposition import generate_latest

from gateway import Gateway
from gateway.calls.records import Attempt
from gateway.config import Config, Probes, Worker
from gateway.testing import RecordedCall, entry, make_call, sse

LOOPS = 2_000
HEADERS = ((b"server", b"uvicorn"), (b"content-type", b"text/event-stream"))
EVENT = sse({"choices": [{"index": 0, "delta": {"content": "token"}}]})


def gateway_with(*plugins: str) -> Gateway:
    probes = Probes(interval=None, models_interval=None)
    workers = (Worker(url="http://127.0.0.1:1", models=("sim",)),)
    return Gateway(Config(workers=workers, plugins=tuple(map(entry, plugins)), probes=probes))


def calls_of(gateway: Gateway, size: int) -> list[RecordedCall]:
    messages = [{"role": "user", "content": "a" * size}]
    body = msgspec.json.encode({"messages": messages, "model": "sim"})
    calls = [make_call(body) for _ in range(LOOPS)]
    [worker] = gateway.workers.all
    for call in calls:
        call.attempts.append(Attempt(worker, call.started))
        call.outcome.status, call.outcome.complete = 200, True
    return calls


async def carry(gateway: Gateway, calls: list[RecordedCall]) -> float:
    """Seconds of what the core does with the hooks, see Proxy._answer and _record."""
    chains = gateway.chains
    began = time.thread_time()
    for call in calls:
        observers = chains.observers(call)
        if observers.started:
            observers.notify_started(200, HEADERS, events=True)
        if chains.call_finished and (rest := chains.run_call_finished(call)) is not None:
            await rest
    return time.thread_time() - began


async def cost_of_a_call(rounds: int, size: int) -> float:
    """Seconds that the plugin adds."""
    without, with_it = gateway_with(), gateway_with("metrics")
    least = [float("inf")] * 2
    for _ in range(rounds):
        for place, gateway in enumerate((without, with_it)):
            took = await carry(gateway, calls_of(gateway, size))
            least[place] = min(least[place], took)
    return (least[1] - least[0]) / LOOPS


def seconds_of(run: Callable[[], object], rounds: int) -> float:
    least = float("inf")
    for _ in range(rounds):
        began = time.thread_time()
        run()
        least = min(least, time.thread_time() - began)
    return least


def watch_events() -> None:
    watch = Watch()
    watch.started(200, HEADERS)
    for _ in range(LOOPS):
        watch.gaps.add(EVENT)


def full() -> Tally:
    tally = Tally()
    call = make_call()
    call.outcome.status = 200
    for number in range(MAX_SERIES):
        way = tally.way("/v1/chat/completions", f"m{number % 10}", f"w{number // 10}", "http")
        way.add(call, call.outcome, None)
    return tally


def written(tally: Tally) -> bytes:
    families, _ = checked([("metrics", tally.samples())])
    return generate_latest(families)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    for name, size in (("small", 200), ("large", 20_000)):
        sys.stdout.write(f"call, {name}: {await cost_of_a_call(rounds, size) * 1e6:.2f} us\n")
    sys.stdout.write(f"event: {seconds_of(watch_events, rounds) / LOOPS * 1e6:.2f} us\n")
    tally = full()
    sys.stdout.write(f"scrape, held: {seconds_of(tally.copy, 5) * 1e3:.1f} ms\n")
    sys.stdout.write(f"scrape, written: {seconds_of(lambda: written(tally), 2) * 1e3:.0f} ms\n")


if __name__ == "__main__":
    asyncio.run(main())
