"""The embedded database: one SQLite file, one writer thread, commits in groups.

`file.py` opens the file, `faults.py` classifies its errors, `writer.py` is the writer thread,
`groups.py` the queue in front of it, `rows.py` inserts many rows at once, `readers.py` are the
reader threads, `turn.py` serializes the writers of several processes, and `store.py` is the
interface for the gateway and its plugins.
"""

from gateway.errors import StorageUnavailable
from gateway.storage.commit_queue import Health
from gateway.storage.sqlite.file import open_read_only
from gateway.storage.sqlite.rows import insert_rows
from gateway.storage.sqlite.writer import Entry, Sink
from gateway.storage.store import Storage

__all__ = [
    "Entry",
    "Health",
    "Sink",
    "Storage",
    "StorageUnavailable",
    "insert_rows",
    "open_read_only",
]
