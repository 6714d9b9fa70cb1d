"""The database of the gateway: one writer thread, commits in groups, and what plugins see of it.

`database.py` is the interface that plugins speak, `sink.py` what a call leaves to be stored.
`store.py` runs queries and changes, `commit_queue.py` is the queue in front of the writer. The
folder `sqlite` is the only engine.
"""

from gateway.errors import ConstraintViolated, StorageError, StorageUnavailable
from gateway.storage.commit_queue import Health
from gateway.storage.database import (
    Database,
    Migration,
    Migrations,
    OpenDatabase,
    Value,
    insert_rows,
)
from gateway.storage.sink import Entry, Sink
from gateway.storage.sqlite.change_file import FileChanges, open_for_changes
from gateway.storage.sqlite.read_only import open_read_only
from gateway.storage.store import Storage

__all__ = [
    "ConstraintViolated",
    "Database",
    "Entry",
    "FileChanges",
    "Health",
    "Migration",
    "Migrations",
    "OpenDatabase",
    "Sink",
    "Storage",
    "StorageError",
    "StorageUnavailable",
    "Value",
    "insert_rows",
    "open_for_changes",
    "open_read_only",
]
