"""A real `gateway serve --processes N`, and connections of which each process has one."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from support.callers.raw_client import RawClient
from support.gateways.reloadable import write
from support.gateways.serving_process import PATIENCE, Process, serving
from support.paths import SUPPORT

WHO = str(SUPPORT / "plugins" / "which_process.py")


@contextlib.asynccontextmanager
async def several(
    file: Path, count: int, *plugins: object, **settings: object
) -> AsyncIterator[Process]:
    """So many processes serve what such a file says, with a database beside it."""
    settings = {"storage": {"path": str(file.with_suffix(".db"))}, **settings}
    write(file, WHO, *plugins, **settings)
    async with serving("", "--config", str(file), "--processes", str(count)) as process:
        yield process


async def who_answers(client: RawClient) -> tuple[int, int]:
    """The index and the pid of the process that has this connection."""
    index, pid = (await client.ask("GET", "/who")).body.split()
    return int(index), int(pid)


@contextlib.asynccontextmanager
async def a_client_of_each(process: Process, count: int) -> AsyncIterator[list[RawClient]]:
    """A connection to each process, by its index: as many are opened as that takes."""
    found: dict[int, RawClient] = {}
    async with contextlib.AsyncExitStack() as stack:
        async with asyncio.timeout(PATIENCE):
            while len(found) < count:
                client = await stack.enter_async_context(process.client())
                found.setdefault((await who_answers(client))[0], client)
        yield [found[index] for index in range(count)]
