"""A queue of calls that may wait, as the hook `work_queue` returns it."""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, Protocol

import msgspec

from gateway.calls.records import Principal


class NewWork(msgspec.Struct, frozen=True, kw_only=True):
    """A call to queue: `path` and `body` (JSON) are those of the request that a worker will get.

    `id` is chosen by the plugin, so that it can find out after a restart whether the item is
    queued; no other item may ever have it. A larger `priority` is sooner. `deadline` is the time
    within which the item has to end, in seconds from now; None: as the queue is configured.
    `source` is the kind of work that its call is counted under. `traceparent` is the header of the
    request that asked for the work: the spans of the call link to it.
    """

    id: str
    path: str
    model: str
    body: bytes
    priority: int = 0
    deadline: float | None = None
    source: Literal["batch", "eval"] = "batch"
    traceparent: str | None = None


class WorkItem(msgspec.Struct, frozen=True, kw_only=True):
    """A queued call as it is stored now. Times are Unix seconds, None if not reached.

    `attempts` counts the calls begun for it. `status` is that of the response, None if there is
    none. `error_code` and `error` say why the latest attempt failed. What is stored is deleted at
    `expires`.
    """

    id: str
    model: str
    state: Literal["queued", "running", "completed", "error", "canceled"]
    submitted: float
    started: float | None
    finished: float | None
    expires: float | None
    attempts: int
    status: int | None
    error_code: str | None
    error: str | None

    @property
    def is_over(self) -> bool:
        """Whether it has ended: nothing of it changes any more."""
        return self.state not in ("queued", "running")


class Backlog(msgspec.Struct, frozen=True, kw_only=True):
    """The items of one model that have not ended: `queued` ones may be claimed, `running` ones are.

    `oldest` is when the oldest of the queued ones was submitted, in Unix seconds, None if there is
    none; `priority` is the highest of theirs.
    """

    queued: int = 0
    running: int = 0
    oldest: float | None = None
    priority: int = 0


class WorkQueue(Protocol):
    """A durable queue. Every method may raise StorageError.

    An item that is queued is run, however often the gateway is restarted or killed, until it has
    ended; its response is stored in the transaction that ends it.
    """

    async def submit(self, principal: Principal | None, items: Sequence[NewWork]) -> None:
        """Queue all of the items, or none of them, for this principal.

        Raises TooManyRequests if there is no room, ConstraintViolated if an id is taken.
        """

    async def find(self, item_id: str) -> WorkItem | None:
        """Return an item, None if there is none."""

    async def find_all(self, item_ids: Collection[str]) -> Mapping[str, WorkItem]:
        """Return those of the items that there are, by their ids."""

    async def wait(self, item_id: str, seconds: float) -> WorkItem | None:
        """Return an item as soon as it is over, or as it is after `seconds`; None: there is none.

        Returns early if the gateway drains.
        """

    async def cancel(self, item_id: str) -> bool:
        """Cancel an item, and end its call; False if it is over, or there is none."""

    async def answer(self, item_id: str) -> bytes | None:
        """Return the body of the response to an item that is over; None if there is none."""

    async def answers(self, item_ids: Collection[str]) -> Mapping[str, bytes]:
        """Return the bodies of the responses to items that are over, by their ids."""

    async def backlog(self) -> Mapping[str, Backlog]:
        """Return what has not ended, by model."""

    async def preempt(self, model: str) -> int:
        """End the calls of items of the model, in all processes; return how many this one had.

        The items are queued again in their places, and these attempts do not count.
        """
