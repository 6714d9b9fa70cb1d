"""What a call leaves to be stored: items, each with the sink that makes rows of it."""

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from gateway.storage.database import Database


class Sink(Protocol):
    """Stores one kind of item for a plugin. The methods run in the writer's thread."""

    def prepare(self, db: Database, item: Any) -> Any:
        """Make the rows of `item` before the transaction begins; `db` is for reading only."""

    def write(self, db: Database, rows: Sequence[Any]) -> None:
        """Insert the results of `prepare`, for all items of a transaction in order.

        Called again, possibly with another Database, if the transaction failed.
        """

    def written(self, rows: Sequence[Any]) -> None:
        """Called once the rows are committed."""

    def lost(self, item: Any, error: Exception) -> None:
        """Called if `item` will never be stored; may run in the event loop's thread too."""


class Entry(msgspec.Struct, eq=False):
    """One item for a sink; `size` is its approximate size in memory, in bytes.

    No call waits for the commit of a `lazy` entry.
    """

    sink: Sink
    item: Any
    size: int
    lazy: bool = False
    rows: Any = None
    prepared: bool = False


Group = list[Entry]
