"""Gives the places of items that end to others, in the transaction that stores the ends.

So a place is not empty until another transaction has claimed an item for it, and most items need no
transaction of their own to be claimed.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from gateway import Database, StorageError
from gateway_plugins.batch.queue.claiming import Claiming
from gateway_plugins.batch.queue.items import Claimed, Ended

log = logging.getLogger("gateway.batch")

Begin = Callable[[Sequence[Claimed], Sequence[int]], None]
"""Arguments: the items that were claimed, and the numbers of those whose places they get."""


class Refilling:
    """A Refill of Settling. `begin` is called in the event loop, once the claims are committed.

    `lanes` is the room of lanes that were refused of late; the event loop replaces it.
    """

    def __init__(self, claiming: Claiming, begin: Begin) -> None:
        self.lanes: Mapping[int, int] = {}
        self._claiming = claiming
        self._begin = begin
        self._loop = asyncio.get_running_loop()
        self._claimed: Sequence[Claimed] = ()

    def claim(self, db: Database, ends: Sequence[Ended]) -> None:
        """Claim items that may have the places of those that have ended. Raises StorageError.

        The next in the order gets a place, whatever its model is, if the same workers serve it:
        else items of one model would keep all places.
        """
        self._claimed = ()
        if not self._claiming.is_registered(db):  # registering may fail, and calls would with it
            return
        rooms = Counter(model for end in ends for model in end.refills or ())
        others = sum(not end.refills for end in ends)
        try:
            claims = self._claiming.claim_more(
                db, rooms, others, time.time(), len(ends), self.lanes
            )
        except StorageError:
            raise
        except Exception:  # the calls that share the transaction are not to blame
            log.exception("no item can be claimed now")
        else:
            self._claimed = claims.items

    def committed(self, ends: Sequence[Ended]) -> None:
        claimed, self._claimed = self._claimed, ()
        self._tell(claimed, ends)

    def lost(self, end: Ended) -> None:
        self._tell((), (end,))

    def _tell(self, claimed: Sequence[Claimed], ends: Sequence[Ended]) -> None:
        numbers = [end.item.number for end in ends]
        with contextlib.suppress(RuntimeError):  # the loop is closed: the next start has the items
            self._loop.call_soon_threadsafe(self._begin, claimed, numbers)
