"""What happens to the workers: for a spell they are something else, then well, then another."""

import asyncio
import random
from collections.abc import Sequence
from typing import Protocol

from storm.worker import Mood

MOODS: tuple[Mood, ...] = ("killed", "hung", "slow", "500", "503", "breaking")
FLAPS = 4


class Worker(Protocol):
    """Something that fails as it is told to."""

    name: str

    async def become(self, mood: Mood) -> None: ...


async def blow(workers: Sequence[Worker], spell: float, seed: int) -> None:
    """Until cancelled. A spell lasts `spell` seconds on average."""
    async with asyncio.TaskGroup() as group:
        for worker in workers:
            group.create_task(_trouble(worker, spell, random.Random(f"{worker.name} {seed}")))


async def clear_up(workers: Sequence[Worker]) -> None:
    for worker in workers:
        await worker.become("well")


async def _trouble(worker: Worker, spell: float, chance: random.Random) -> None:
    while True:
        await asyncio.sleep(spell * chance.uniform(0, 1))
        seconds = spell * chance.uniform(0.5, 1.5)
        mood = chance.choice((*MOODS, None))
        if mood is None:
            await _flap(worker, seconds)
        else:
            await worker.become(mood)
            await asyncio.sleep(seconds)
        await worker.become("well")


async def _flap(worker: Worker, seconds: float) -> None:
    """Die and come back, several times in one spell."""
    for _ in range(FLAPS):
        await worker.become("killed")
        await asyncio.sleep(seconds / FLAPS / 2)
        await worker.become("well")
        await asyncio.sleep(seconds / FLAPS / 2)
