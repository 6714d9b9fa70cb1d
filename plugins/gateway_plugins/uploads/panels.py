"""What people see of uploads: how far each is, and why some have failed."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from gateway import Cell, Panel, PanelRows, Storage
from gateway_plugins.uploads.life import Uploads
from gateway_plugins.uploads.store import rows
from gateway_plugins.uploads.store.rows import COMPLETED, UPLOADING, Upload


class UploadPanels:
    """The panels, read from the database and the folder of `uploads`.

    `progress` returns how much of each upload that is being installed is done, from 0 to 1, as far
    as this process knows.
    """

    def __init__(
        self,
        storage: Storage,
        uploads: Callable[[], Uploads],
        progress: Callable[[], Mapping[str, float]],
    ) -> None:
        self._storage = storage
        self._uploads = uploads
        self._progress = progress

    def all(self) -> Sequence[Panel]:
        """Return the panels."""
        return [Panel(name="uploads", title="Uploads", scope="monitor", read=self._read)]

    async def _read(self, limit: int) -> PanelRows:
        found = await self._storage.read(lambda db: rows.newest(db, limit))
        folder, progress = self._uploads().folder, self._progress()
        arriving = [one.id for one in found if one.status == UPLOADING]
        sizes = await asyncio.to_thread(lambda: {one: folder.size(one) for one in arriving})
        return PanelRows([_row(one, sizes.get(one.id), progress.get(one.id)) for one in found])


def _row(upload: Upload, size: int | None, installed: float | None) -> Mapping[str, Cell]:
    received = upload.received if size is None else size
    return {
        "id": upload.id,
        "model": upload.model,
        "status": upload.status,
        "received_bytes": received,
        "size_bytes": upload.length,
        "progress_share": _progress(upload, received, installed),
        "why": upload.error,
        "created_at": upload.created,
        "owner": upload.owner,
    }


def _progress(upload: Upload, received: int, installed: float | None) -> float | None:
    """Return how much of the present state is done; None if that is not known here."""
    if upload.status == UPLOADING:
        return received / upload.length if upload.length else None
    return 1.0 if upload.status == COMPLETED else installed
