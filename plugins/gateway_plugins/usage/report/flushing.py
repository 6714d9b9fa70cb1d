"""What every report does first: the rows of calls that are over come into the database."""

import contextlib

from gateway import Storage, StorageUnavailable


async def flush(storage: Storage) -> None:
    """Commit the rows of calls that are over, including those whose commit was postponed."""
    with contextlib.suppress(StorageUnavailable):
        await storage.flush()
