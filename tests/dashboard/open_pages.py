"""What open dashboards cost a gateway: `make open-pages`. Fails if it is too much of a core."""

import argparse
import asyncio
import os
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from time import monotonic

import httpx
from support.gateways.dashboard_stage import Stage, bearer, fill, staged

MOST = 2.0
"""Per cent of a core that all pages together may cost."""

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu(pid: int) -> float:
    """Return the seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


async def share(stage: Stage, seconds: float) -> float:
    """Return the per cent of a core that the gateway uses."""
    used, began = cpu(stage.process.pid), monotonic()
    await asyncio.sleep(seconds)
    return 100 * (cpu(stage.process.pid) - used) / (monotonic() - began)


async def page(client: httpx.AsyncClient, shown: asyncio.Event) -> None:
    """Listen as a page does, for ever."""
    async with client.stream("GET", "/dashboard/events", headers=bearer("boss")) as answer:
        async for line in answer.aiter_lines():
            if line == "event: seen":
                shown.set()


async def measured(pages: int, seconds: float) -> float:
    """Return how much more of a core is used with this many pages than with none, in per cent."""
    with tempfile.TemporaryDirectory() as folder:
        async with staged(Path(folder), refresh=5.0) as stage, AsyncExitStack() as stack:
            await fill(stage)
            without = await share(stage, seconds)
            limits = httpx.Limits(max_connections=None)
            client = httpx.AsyncClient(base_url=stage.url, timeout=None, limits=limits)
            await stack.enter_async_context(client)
            events = [asyncio.Event() for _ in range(pages)]
            listening = [asyncio.create_task(page(client, one)) for one in events]
            await asyncio.gather(*(one.wait() for one in events))
            with_all = await share(stage, seconds)
            for one in listening:
                one.cancel()
            await asyncio.wait(listening)
    return with_all - without


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pages", type=int, default=100, help="open pages (100)")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each measurement (30)")
    options = parser.parse_args()
    more = asyncio.run(measured(options.pages, options.seconds))
    print(f"{options.pages} open pages cost {more:.2f} % of a core more than none")  # noqa: T201
    return int(more >= MOST)


if __name__ == "__main__":
    sys.exit(main())
