"""Items that run in a gateway, and what has become of them."""

import asyncio
from collections.abc import Sequence

from gateway_plugins.batch.queue import reading
from gateway_plugins.batch.queue.items import Item, NewItem, Owner
from support.plugins.recording_plugin import PATIENCE
from support.records.queued_items import engine_of

from gateway.config import PluginEntry
from gateway.testing import Live, entry


def quick(**options: object) -> PluginEntry:
    """The plugin with pauses that no test waits for long; workers get nothing but calls."""
    return entry(
        "batch", **{"min_pause": 0.01, "max_pause": 0.05, "engine_metrics": None, **options}
    )


async def queue(live: Live, *items: NewItem, owner: Owner | None = None) -> list[str]:
    """Queue items; return their ids."""
    await engine_of(live).submit(owner or Owner(), items)
    return [item.id for item in items]


async def run(live: Live, *items: NewItem, owner: Owner | None = None) -> list[Item]:
    """Queue items; return them once all are over."""
    return await ended(live, await queue(live, *items, owner=owner))


async def ended(live: Live, ids: Sequence[str], seconds: float = PATIENCE) -> list[Item]:
    """Return items once they are over. Raises TimeoutError if one is not in time."""
    engine = engine_of(live)
    async with asyncio.timeout(seconds):
        found = [await engine.wait(one, None, seconds) for one in ids]
    assert all(item is not None and item.is_over for item in found), found
    return [item for item in found if item is not None]


async def item_of(live: Live, item_id: str) -> Item:
    """Return an item as it is stored now."""
    found = await engine_of(live).find(item_id, None)
    assert found is not None
    return found


async def answer_of(live: Live, item: Item) -> bytes | None:
    """Return the stored body of the response to an item."""
    number = item.number
    return await live.gateway.storage.read(lambda db: reading.answer_of(db, number))


async def count(live: Live, table: str, where: str = "1 = 1") -> int:
    """Return how many rows of a table there are."""

    query = f"SELECT count(*) FROM {table} WHERE {where}"
    [(found,)] = await live.gateway.storage.read(lambda db: list(db.select(query)))
    return int(found)
