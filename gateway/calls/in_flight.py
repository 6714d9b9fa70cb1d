"""The set of calls or requests that have begun and not ended."""

import asyncio
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


class InFlight(set[T]):
    """Items that have begun and not ended: `add` an item when it begins, `end` it later."""

    def __init__(self) -> None:
        super().__init__()
        self._awaited: list[tuple[set[T], asyncio.Event]] = []

    def end(self, one: T) -> None:
        self.discard(one)
        for left, over in self._awaited:
            left.discard(one)
            if not left:
                over.set()

    async def wait_for(self, some: Iterable[T]) -> None:
        """Wait until all of `some` have ended; others may begin meanwhile."""
        left = self.intersection(some)
        if not left:
            return
        awaited = (left, asyncio.Event())
        self._awaited.append(awaited)
        try:
            await awaited[1].wait()
        finally:
            self._awaited.remove(awaited)
