"""A database file with a queue, as a gateway leaves it, and `gateway batch` on it."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from gateway_plugins.batch.queue.items import STATES, Item, NewItem, Owner
from gateway_plugins.batch.queue.reading import item_of
from gateway_plugins.batch.queue.schema import MIGRATIONS
from gateway_plugins.batch.queue.submission import Room, submit

from gateway.cli import main
from gateway.storage.sqlite.connection import Connection
from gateway.storage.sqlite.file import open_for_writing

Said = tuple[int | str | None, str, str]
"""Exit status, standard output and standard error."""


class QueueFile:
    """Call it with the arguments of `gateway batch`; they act on this file."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path = folder / "gateway.db"
        self._config = folder / "gateway.yaml"
        self.configure("batch")
        self._capsys = capsys

    def configure(self, plugin: str) -> None:
        self._config.write_text(f"storage: {{path: {self.path}}}\nplugins: [{plugin}]\n")

    def __call__(self, *arguments: str) -> Said:
        with pytest.raises(SystemExit) as stopped:
            main(["batch", *arguments, "--config", str(self._config)])
        printed = self._capsys.readouterr()
        return stopped.value.code or 0, printed.out, printed.err

    def open(self) -> Connection:
        return open_for_writing(self.path, "process", [MIGRATIONS])

    def add(self, owner: Owner, *items: NewItem) -> Sequence[str]:
        """Queue items; return their ids."""
        with closing(self.open()) as db:
            db.execute("BEGIN")
            submit(db, owner, items, Room(10**9, 10**9))
            db.execute("COMMIT")
        return [item.id for item in items]

    def fail(self, *item_ids: str) -> None:
        """Mark items as failed, with a response of the status 400."""
        error = '{"code": "400", "message": "no"}'
        with closing(self.open()) as db:
            for item_id in item_ids:
                named = {"id": item_id, "error": error}
                db.execute(
                    "UPDATE batch_items SET state = 3, attempts = 1, status = 400, error = :error,"
                    " finished = submitted, expires = submitted + 1e6 WHERE id = :id",
                    named,
                )
                db.execute(
                    "UPDATE batch_lanes SET queued = queued - 1 WHERE lane ="
                    " (SELECT lane FROM batch_items WHERE id = :id)",
                    named,
                )
                item = self.item(item_id)
                row = (item.number, b'\0{"error": {"message": "no"}}')
                db.insert("INSERT INTO batch_answers (number, answer)", [row])

    def item(self, item_id: str) -> Item:
        with closing(self.open()) as db:
            item = item_of(db, item_id)
        assert item is not None
        return item

    def state(self, item_id: str) -> str:
        return STATES[self.item(item_id).state]

    def counts(self) -> tuple[int, int]:
        """How many items the lanes say are queued and running."""
        with closing(self.open()) as db:
            [(queued, running)] = db.select("SELECT sum(queued), sum(running) FROM batch_lanes")
        return queued or 0, running or 0
