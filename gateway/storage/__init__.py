"""The embedded database: one SQLite file, one writer thread, commits in groups.

`file.py` opens the file, `faults.py` tells what an error of it means, `writer.py` is the thread,
`groups.py` the queue before it, `rows.py` puts many rows in at once, `readers.py` are the threads
that read, `turn.py` has writers of several processes take turns, `store.py` is what the gateway and
its plugins see.
"""

from gateway.storage.file import open_read_only
from gateway.storage.groups import Health, StorageUnavailable
from gateway.storage.rows import insert_rows
from gateway.storage.store import MEMORY, Storage
from gateway.storage.writer import Entry, Sink

__all__ = [
    "MEMORY",
    "Entry",
    "Health",
    "Sink",
    "Storage",
    "StorageUnavailable",
    "insert_rows",
    "open_read_only",
]
