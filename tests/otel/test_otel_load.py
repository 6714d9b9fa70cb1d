"""Load beside a collector that is broken: `pytest -m slow tests/otel -n 0 --otel-minutes 60`.

Calls go by turns to a gateway that sends spans and to one that does not, both before the same
worker, so that what else the machine does is the same for both.
"""

import asyncio
import math
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

import pytest
from support.callers.raw_client import RawClient, head_of
from support.callers.scraping import Scrape
from support.gateways.serving_process import Process, serving
from support.otel.collector import Collector, Reply, collecting

from gateway.testing import ScriptedWorker, answer_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0)]

OTEL = "gateway_plugins.otel:Otel"
CALLERS = 4
RATIO = 0.1
WAITING = 500
LATER, GROWN = 0.001, 8 << 20
"""Seconds at p99, and bytes of memory after the first round, at most."""

BODY = b'{"model": "sim", "messages": [{"role": "user", "content": "Hello"}]}'
REQUEST = (
    head_of(
        "POST",
        "/v1/chat/completions",
        [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))],
    )
    + BODY
)
USAGE = b'{"prompt_tokens": 9, "completion_tokens": 5}'
ANSWER = answer_of(
    b'{"id": "c", "model": "sim", "choices": [{"finish_reason": "stop"}], "usage": %b}' % USAGE
)


def break_collector(collector: Collector, how: str) -> None:
    """Away: it hangs up without an answer, as a proxy before no collector does."""
    collector.held.clear() if how == "slow" else collector.held.set()
    statuses = {"429": 429, "503": 503, "away": 0, "slow": 200}
    collector.reply = Reply(statuses[how], {"retry-after": "1"} if how == "429" else {})


@asynccontextmanager
async def gateway(folder: Path, worker: str, *plugins: str) -> AsyncIterator[Process]:
    file = folder / f"gateway{len(plugins)}.yaml"
    lines = [f"workers: ['{worker}']", "plugins:", *(f"  - {one}" for one in plugins)]
    file.write_text("\n".join(lines))
    async with serving("", "--config", str(file)) as process:
        yield process


async def timed(client: RawClient) -> float:
    began = monotonic()
    await client.send(REQUEST)
    answer = await client.answer()
    assert answer.status == 200
    return monotonic() - began


async def load(processes: list[Process], worker: ScriptedWorker, until: float) -> list[list[float]]:
    """Seconds of each call, by process; each caller turns from one process to the next.

    Deletes what `worker` recorded: the requests of an hour would take 10 GB.
    """
    times: list[list[float]] = [[] for _ in processes]

    async def caller() -> None:
        async with processes[0].client() as first, processes[1].client() as second:
            while monotonic() < until:
                for place, client in enumerate((first, second)):
                    times[place].append(await timed(client))
                worker.requests.clear()

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return times


def quantile(times: list[float], share: float) -> float:
    return sorted(times)[math.ceil(share * len(times)) - 1]


async def scraped(process: Process) -> Scrape:
    async with process.client() as client:
        await client.send(head_of("GET", "/metrics", [(b"content-length", b"0")]))
        return Scrape((await client.answer()).body.decode())


async def test_broken_collector_costs_no_call_and_no_memory(
    tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    minutes = request.config.getoption("--otel-minutes")
    times: dict[str, list[list[float]]] = {}
    memory: list[int] = []
    with collecting() as collector:
        options = f"{{endpoint: '{collector.url}', ratio: {RATIO}, max_waiting: {WAITING}}}"
        async with (
            ScriptedWorker(ANSWER) as worker,
            gateway(
                tmp_path, worker.url, f"gateway_plugins.otel:Otel: {options}", "metrics"
            ) as sends,
            gateway(tmp_path, worker.url, "metrics") as sends_not,
        ):
            both = [sends, sends_not]
            await load(both, worker, monotonic() + 2)
            for how in ("well", "slow", "away", "429", "503"):
                if how != "well":
                    break_collector(collector, how)
                times[how] = await load(both, worker, monotonic() + minutes * 60 / 5)
                memory.append(sends.memory())
            grown = memory[-1] - memory[1]
            found = await scraped(sends)
    with capsys.disabled():
        tell(times, grown, found)
    check(times, grown, found)


def tell(times: Mapping[str, list[list[float]]], grown: int, found: Scrape) -> None:
    for how, (with_spans, without) in times.items():
        told = [f"{1e3 * quantile(one, 0.99):.2f}" for one in (with_spans, without)]
        calls = f"{len(without)} calls each"
        sys.stdout.write(f"\n{how}: {calls}, p99 {told[0]} ms with spans, {told[1]} ms without")
    names = ("gateway_otel_spans_dropped_total", "gateway_otel_spans_sent_total")
    told = [f"{name} {found.value(name):.0f}" for name in names]
    sys.stdout.write(f"\nmemory grew by {grown} bytes; {', '.join(told)}\n")


def check(times: Mapping[str, list[list[float]]], grown: int, found: Scrape) -> None:
    later = {
        how: quantile(with_spans, 0.99) - quantile(without, 0.99)
        for how, (with_spans, without) in times.items()
        if how != "well"
    }
    assert max(later.values()) < LATER, later
    assert grown < GROWN
    assert found.value("gateway_otel_spans_dropped_total", reason="queue_full") > 0
    assert found.value("gateway_otel_collector_away") == 1
