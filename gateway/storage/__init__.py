"""The embedded database: one SQLite file, one writer thread, commits in groups.

`file.py` opens the file, `faults.py` tells what an error of it means, `writer.py` is the thread,
`groups.py` the queue before it, `readers.py` the threads that read, `store.py` what the gateway and
its plugins see.
"""

from gateway.storage.file import open_read_only
from gateway.storage.groups import Health, StorageUnavailable
from gateway.storage.store import Storage
from gateway.storage.writer import Entry, Sink

__all__ = ["Entry", "Health", "Sink", "Storage", "StorageUnavailable", "open_read_only"]
