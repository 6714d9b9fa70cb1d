"""What people see of usage: sums by day, by key and by model, and all of them together."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from heapq import nlargest

from gateway import Cell, Database, Panel, PanelRows, Storage
from gateway_plugins.usage.report.flushing import flush
from gateway_plugins.usage.report.queries import Values, Wanted, sums

SHOWN: Mapping[str, Sequence[str]] = {
    "days": ("day",),
    "keys": ("key",),
    "models": ("model",),
    "sources": ("source",),
    "days_models": ("day", "model"),
    "all": ("day", "key", "model", "source"),
}
"""The panels, and the columns by which each of them groups."""


class UsagePanels:
    """The panels, read from the database when somebody asks for them."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def all(self) -> Sequence[Panel]:
        """Return the panels."""
        return [
            Panel(
                name=name,
                title=f"Usage by {', '.join(by)}",
                scope="monitor",
                read=partial(self._read, by),
                live=False,
            )
            for name, by in SHOWN.items()
        ]

    async def _read(self, by: Sequence[str], limit: int) -> PanelRows:
        await flush(self._storage)
        return await self._storage.read(lambda db: _rows(db, by, limit))


def _rows(db: Database, by: Sequence[str], limit: int) -> PanelRows:
    """Return the newest days, or what has the most tokens; keeps `limit` rows in memory."""
    found = sums(db, by, Wanted())
    kept: Iterable[Values]
    if by[0] == "day":
        kept = reversed(deque(found, maxlen=limit))
    else:
        kept = nlargest(limit, found, key=lambda row: row["total_tokens"])
    return PanelRows([_shown(row) for row in kept])


def _shown(row: Values) -> Mapping[str, Cell]:
    """Return a row with its day as people write it."""
    if "day" not in row:
        return dict(row)
    day = str(row["day"])
    return {**row, "day": f"{day[:4]}-{day[4:6]}-{day[6:]}"}
