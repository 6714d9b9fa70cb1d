"""How a process of the soak's own tells what it sees: a JSON line for each on standard output."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable

import msgspec

OFTEN = 0.1
"""Seconds for which lines are kept back, so that many go out at once."""

Tell = Callable[[object], None]


@contextlib.asynccontextmanager
async def telling() -> AsyncIterator[Tell]:
    """What is told within the block is out at its end."""
    encoder = msgspec.json.Encoder()

    def tell(fact: object) -> None:
        sys.stdout.buffer.write(encoder.encode(fact) + b"\n")

    flushing = asyncio.create_task(_flush())
    try:
        yield tell
    finally:
        flushing.cancel()
        sys.stdout.buffer.flush()


async def _flush() -> None:
    while True:
        sys.stdout.buffer.flush()
        await asyncio.sleep(OFTEN)
