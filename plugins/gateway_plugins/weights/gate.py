"""Holds a bounded number of calls, in order, while the weights change."""

import asyncio
from collections.abc import Iterable
from time import monotonic

from gateway import Call, ChooseAgain, NoWorker, Worker, Workers, retry_after

DEFAULT_RETRY_AFTER = 5.0
"""Seconds of Retry-After until one update has ended; later, those that the last one took."""


class WeightsUpdating(NoWorker):
    """The weights are changing, and the call cannot wait, or has waited too long."""

    code = "weights_updating"


class Gate:
    """Lets calls pass while it is open. While closed, up to `length` wait, each up to `wait` s.

    While it waits, the caller of a stream is sent an SSE comment every `comments` seconds, so that
    no intermediary takes the connection for dead; None: no comments.
    """

    def __init__(
        self, *, length: int = 10_000, wait: float = 300.0, comments: float | None = None
    ) -> None:
        self.closed = False
        self._length = length
        self._wait = wait
        self._comments = comments
        self._reason = ""
        self._since = 0.0
        self._lasted = DEFAULT_RETRY_AFTER
        self._held: dict[asyncio.Future[None], None] = {}
        self._barred: tuple[Worker, ...] = ()

    def limit(self, *, length: int, wait: float, comments: float | None) -> None:
        """Set other limits for the calls that arrive from now on."""
        self._length, self._wait, self._comments = length, wait, comments

    @property
    def held(self) -> int:
        """Number of calls that wait now."""
        return len(self._held)

    def close(self, reason: str, workers: Iterable[Worker] = ()) -> None:
        """Hold calls from now on; `reason` is part of the error if a call waits in vain.

        `workers` begin no attempt from now on, not even for a call that has passed the gate already
        and is still in another plugin.
        """
        if not self.closed:
            self.closed, self._reason, self._since = True, reason, monotonic()
        for worker in workers:
            if worker not in self._barred:
                worker.barred += 1
                self._barred += (worker,)

    def open(self) -> None:
        """Let the waiting calls go on, in the order of their arrival."""
        if not self.closed:
            return
        self.closed, self._lasted = False, monotonic() - self._since
        for worker in self._barred:
            worker.barred -= 1
        self._barred = ()
        for waiter in self._held:
            if not waiter.done():
                waiter.set_result(None)

    async def passed(self, call: Call) -> None:
        """Return at once while the gate is open; else wait until it is.

        Raises ChooseAgain after a wait, and WeightsUpdating if `length` calls wait already or if
        this one has waited too long.
        """
        if not self.closed:
            return
        if len(self._held) >= self._length:
            raise self._refusal(f"{self._length} calls wait already")
        opened = asyncio.get_running_loop().create_future()
        self._held[opened] = None
        try:
            async with asyncio.timeout(self._wait):
                await self._keep(call, opened)
        except TimeoutError:
            raise self._refusal(f"this call has waited {self._wait} s") from None
        finally:
            del self._held[opened]
        raise ChooseAgain

    async def _keep(self, call: Call, opened: asyncio.Future[None]) -> None:
        if self._comments is not None and call.streams:
            while not (await asyncio.wait((opened,), timeout=self._comments))[0]:
                call.keep_alive()
        await opened

    def _refusal(self, why: str) -> WeightsUpdating:
        again = retry_after(self._lasted)
        return WeightsUpdating(f"{self._reason}, and {why}", retry_after=again)


async def drained(
    registry: Workers, workers: Iterable[Worker], seconds: float | None
) -> list[Worker]:
    """Wait up to `seconds` until none of `workers` has anything in flight.

    Returns the workers that still have; None is no limit.
    """
    busy = {worker for worker in workers if worker.in_flight}
    empty = asyncio.Event()

    def freed(worker: Worker) -> None:
        if not worker.in_flight:
            busy.discard(worker)
            if not busy:
                empty.set()

    registry.freed.append(freed)
    try:
        if busy:
            await asyncio.wait_for(empty.wait(), seconds)
    except TimeoutError:
        pass
    finally:
        registry.freed.remove(freed)
    return list(busy)
