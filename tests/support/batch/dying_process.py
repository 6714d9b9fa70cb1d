"""Works off a queue in processes that are killed at any statement: fault 3.5 of the contract.

dying_process.py DATABASE ITEMS SEED prints how many processes died, as JSON. Each process is a
fork, which kills itself by SIGKILL before a statement, within a transaction or between two.
"""

import json
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).parents[2]))  # it is run as a file, and imports `support`

from gateway_plugins.batch.queue import reading, submission
from gateway_plugins.batch.queue.changes import cancel
from gateway_plugins.batch.queue.items import CANCELED, COMPLETED, QUEUED, NewItem
from gateway_plugins.batch.queue.schema import MIGRATIONS
from support.records.a_queue import NOW, PLENTY, AQueue, check_counts, owner

from gateway.storage import Database
from gateway.storage.database import NO_PARAMS, Row, Value
from gateway.storage.sqlite.connection import Connection
from gateway.storage.sqlite.file import open_for_writing
from gateway.storage.sqlite.writer import change

T = TypeVar("T")

LONGEST = 400
"""Statements that a process lives, at most."""

CANCELED_EVERY = 50
SLICE = 100


class Mortal:
    """A database that ends the process before its `left`-th statement."""

    def __init__(self, db: Connection, left: int) -> None:
        self.raw = db
        self._left = left

    def _count(self) -> None:
        self._left -= 1
        if self._left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def select(self, sql: str, params: Mapping[str, Value] = NO_PARAMS) -> Iterator[Row]:
        self._count()
        return self.raw.select(sql, params)

    def execute(self, sql: str, params: Mapping[str, Value] = NO_PARAMS) -> int:
        self._count()
        return self.raw.execute(sql, params)

    def insert(self, into: str, rows: Sequence[Sequence[object]], after: str = "") -> int:
        self._count()
        return self.raw.insert(into, rows, after)

    def version(self) -> int:
        return self.raw.version()

    def used_bytes(self) -> int:
        return self.raw.used_bytes()

    def change(self, run: Callable[[Database], T]) -> T:
        """Run it in a transaction, as the gateway's writer does; it may die before the commit."""

        def whole(db: Database) -> T:
            result = run(self)
            self._count()
            return result

        result = change(self.raw, whole)
        self._count()
        return result


def live(path: Path, items: int, left: int) -> None:
    """Submit what is missing, take over from the dead, and work off what there is."""
    db = Mortal(open_for_writing(path, "none", [MIGRATIONS]), left)
    queue = AQueue(path, db)
    process = queue.process()
    db.change(process.holder.ensure)
    while db.change(lambda db: process.others.take_over(db, process.holder.number, 0.0)):
        pass
    for start in range(0, items, SLICE):
        db.change(lambda db, start=start: submit(db, start))  # type: ignore[misc]
    while claimed := db.change(lambda db: queue.claim(process, 1_000, 16)):
        for number, item in enumerate(claimed):
            if item.number % CANCELED_EVERY == 0:
                db.change(lambda db, item=item: cancel(db, item.id, queue.end()))  # type: ignore[misc]
            state = QUEUED if number % 7 == 3 else COMPLETED
            answer = b"of %d" % os.getpid()
            db.change(
                lambda db, item=item, state=state, answer=answer: queue.settle(  # type: ignore[misc]
                    process, item, state, answer
                )
            )


def submit(db: Database, start: int) -> None:
    """Queue a slice, unless a process before has; it is known by the key of its submission."""
    known = submission.Submission("ada", f"slice-{start}", b"")
    if submission.repeated(db, known) is None:
        new = [new_item(f"{number:05}") for number in range(start, start + SLICE)]
        submission.submit(db, owner("ada"), new, PLENTY)
        submission.remember(db, known, new[0].id)


def new_item(item_id: str) -> NewItem:
    return NewItem(
        id=item_id,
        kind="other",
        path="/v1/completions",
        model="m",
        body=b"{}",
        priority=0,
        submitted=NOW,
        deadline=1e12,
    )


def main(path: Path, items: int, seed: int) -> None:
    chance = random.Random(seed)
    answers: dict[str, bytes | None] = {}
    died, status = 0, 1
    while status:
        child = os.fork()
        if not child:
            live(path, items, chance.randint(1, LONGEST))
            os._exit(0)
        chance.random()
        status = os.waitpid(child, 0)[1]
        assert status in (0, signal.SIGKILL), status
        died += status == signal.SIGKILL
        look(path, answers)
    assert len(answers) == items, "each item has ended"
    sys.stdout.write(json.dumps({"died": died}))


def look(path: Path, answers: dict[str, bytes | None]) -> None:
    """What had ended has not changed, and all counts are right."""
    db = open_for_writing(path, "none", [MIGRATIONS])
    check_counts(db)
    ended = {
        item.id: reading.answer_of(db, item.number)
        for item in reading.items_of(db, reading.Wanted(), 1_000_000)
        if item.state in (COMPLETED, CANCELED)
    }
    assert ended.items() >= answers.items(), "no response was replaced"
    answers |= ended
    db.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
