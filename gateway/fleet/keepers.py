"""Which worker keeps an object that it made: a response, a conversation, a file, a batch.

This process remembers what it saw workers make. It asks the other processes for the rest, and then
the workers, as after a restart.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence

import msgspec

from gateway.cluster.peers import Peers, Topic
from gateway.errors import CallError
from gateway.fleet.worker import Worker
from gateway.headers import Headers, is_event_stream
from gateway.wire.apis.stored_objects import MAX_READ, made_by

MAX_KEPT = 100_000
"""Maximum number of objects to remember, about 300 bytes each; the latest used ones."""

SEARCH_TIMEOUT = 5.0
"""Seconds within which a worker says whether it has an object."""

MAX_SEARCHES = 16
"""Maximum number of objects that are looked for at the same time."""

WHERE = Topic("fleet", "where")


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """The worker of an object, and the principal that made it; None: nobody is known."""

    worker_id: str
    owner: str | None = None


class Keepers:
    """The workers of objects, which are named by their paths."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Kept] = OrderedDict()
        self._peers = Peers()
        self._searches = asyncio.Semaphore(MAX_SEARCHES)

    def join(self, peers: Peers) -> None:
        """Share what is known with the other processes."""
        self._peers = peers
        peers.handle(WHERE, self._tell)

    def put(self, name: str, kept: Kept) -> None:
        self._known[name] = kept
        self._known.move_to_end(name)
        if len(self._known) > MAX_KEPT:
            self._known.popitem(last=False)

    async def find(self, name: str, workers: Sequence[Worker]) -> Kept | None:
        """Return who keeps the object; None if nobody knows, and none of `workers` has it."""
        kept = self._known.get(name)
        if kept is not None:
            self._known.move_to_end(name)
            return kept
        found = await self._ask_peers(name) or await self._search(name, workers)
        if found is not None:
            self.put(name, found)
        return found

    async def _ask_peers(self, name: str) -> Kept | None:
        replies = await self._peers.request(WHERE, name.encode())
        told = next((reply for reply in replies if reply), None)
        return None if told is None else msgspec.msgpack.decode(told, type=Kept)

    async def _tell(self, name: bytes) -> bytes:
        kept = self._known.get(name.decode())
        return b"" if kept is None else msgspec.msgpack.encode(kept)

    async def _search(self, name: str, workers: Sequence[Worker]) -> Kept | None:
        """Ask all workers for the object, as the server of just one of them has it.

        The first one that has it ends the search, so that a slow one delays nobody.
        """
        async with self._searches:
            asked = [asyncio.create_task(_kept_by(one, name)) for one in workers if one.remote]
            try:
                for answered in asyncio.as_completed(asked):
                    found = await answered
                    if found is not None:
                        return found
            finally:
                for task in asked:
                    task.cancel()
        return None


async def _kept_by(worker: Worker, name: str) -> Kept | None:
    try:
        answer = await worker.request("GET", name, timeout=SEARCH_TIMEOUT)
    except CallError:
        return None
    return Kept(worker.id) if answer.status == 200 else None


class Learner:
    """An observer of the response of a call that makes an object, see gateway.plugins.hookspecs.

    `worker` returns the worker of the latest attempt.
    """

    def __init__(
        self,
        keepers: Keepers,
        collection: str,
        owner: str | None,
        worker: Callable[[], Worker | None],
    ) -> None:
        self._keepers = keepers
        self._collection = collection
        self._owner = owner
        self._worker = worker
        self._begun = b""
        self._looks = self._streamed = False

    def started(self, status: int, headers: Headers) -> None:
        self._begun = b""
        self._looks, self._streamed = 200 <= status < 300, is_event_stream(headers)

    def data(self, chunk: bytes) -> None:
        if not self._looks:
            return
        self._begun += chunk
        if len(self._begun) > MAX_READ:
            self._streamed = True  # what is left of it is not needed
        if self._streamed:
            self._look()
            self._looks = self._looks and len(self._begun) <= MAX_READ

    def finished(self, outcome: object) -> None:
        if self._looks:
            self._look()

    def _look(self) -> None:
        made = made_by(self._collection, self._begun, streamed=self._streamed)
        worker = self._worker()
        if made is not None and worker is not None:
            self._keepers.put(made, Kept(worker.id, self._owner))
            self._looks = False
