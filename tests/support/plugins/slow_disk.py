"""A plugin in whose gateway each transaction takes a while, as on a slow disk."""

import time
from collections.abc import Sequence

from gateway import Call, Database, hookimpl

SECONDS = 0.02


class Slow:
    """A sink that stores nothing."""

    def prepare(self, db: Database, item: None) -> None:
        pass

    def write(self, db: Database, rows: Sequence[None]) -> None:
        time.sleep(SECONDS)

    def written(self, rows: Sequence[None]) -> None:
        pass

    def lost(self, item: None, error: BaseException) -> None:
        pass


SLOW = Slow()


@hookimpl
async def call_finished(call: Call) -> None:
    call.store(SLOW, None, 1)
