"""Loops over claimed trajectories: claim, have the caller work, acknowledge; release on errors."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Protocol

import msgspec

from gateway.client.asks import GatewayClientError
from gateway.client.claims import ClaimedTrajectory, Claims, ClaimsChanged, check

RETRY = 1.0
"""Seconds until an acknowledgement that did not reach the gateway is sent again."""

MIN_POLL = 0.25
"""Seconds until sessions are looked for again that another request was about to read."""


class Taking(msgspec.Struct):
    """What a loop asks for, and how long it waits; `since` is when it last got something."""

    lease: float
    wait: float | None
    poll: float
    since: float = msgspec.field(default_factory=time.monotonic)

    def pause(self, found: Claims) -> float | None:
        """Return the seconds until the next claim; None if the loop is over."""
        now = time.monotonic()
        if found.claims:
            self.since = now
            return 0.0
        if found.more:
            return min(self.poll, MIN_POLL)
        if self.wait is None:
            return self.poll
        left = self.since + self.wait - now
        return min(self.poll, left) if left > 0 else None


def may_retry(error: GatewayClientError, until: float) -> bool:
    """Whether a request may be heard if it is sent again, before `until` (monotonic)."""
    unheard = error.code is None if error.status is None else error.status >= 500
    return unheard and time.monotonic() + RETRY < until


class Blocking(Protocol):
    """The part of GatewayClient that a loop uses."""

    def acknowledge(self, receipts: Sequence[str]) -> ClaimsChanged: ...
    def release(self, receipts: Sequence[str]) -> ClaimsChanged: ...
    def extend(self, receipts: Sequence[str], lease: float | None) -> ClaimsChanged: ...


class Awaited(Protocol):
    """The part of AsyncGatewayClient that a loop uses."""

    async def acknowledge(self, receipts: Sequence[str]) -> ClaimsChanged: ...
    async def release(self, receipts: Sequence[str]) -> ClaimsChanged: ...
    async def extend(self, receipts: Sequence[str], lease: float | None) -> ClaimsChanged: ...


def batches(
    client: Blocking, take: Callable[[], Claims], taking: Taking
) -> Iterator[list[ClaimedTrajectory]]:
    """Yield what `take` claims. Raises GatewayClientError."""
    while (pause := taking.pause(found := take())) is not None:
        if found.claims:
            with _held(client, [one.receipt for one in found.claims], taking.lease):
                yield found.claims
        else:
            time.sleep(pause)


@contextlib.contextmanager
def _held(client: Blocking, receipts: Sequence[str], lease: float) -> Iterator[None]:
    """Extend the leases while the block runs; then acknowledge, or release after an exception."""
    done = threading.Event()

    def extend() -> None:
        while not done.wait(lease / 3):
            with contextlib.suppress(GatewayClientError):  # to acknowledge tells what became of it
                client.extend(receipts, lease)

    thread = threading.Thread(target=extend, name="gateway-claims", daemon=True)
    thread.start()
    try:
        yield
    except BaseException:
        done.set()
        with contextlib.suppress(GatewayClientError):  # the lease ends by itself
            client.release(receipts)
        raise
    else:
        _acknowledge(client, receipts, time.monotonic() + lease)
    finally:
        done.set()
        thread.join()


def _acknowledge(client: Blocking, receipts: Sequence[str], until: float) -> None:
    while True:
        try:
            return check(client.acknowledge(receipts))
        except GatewayClientError as error:
            if not may_retry(error, until):
                raise
        time.sleep(RETRY)


async def batches_awaited(
    client: Awaited, take: Callable[[], Awaitable[Claims]], taking: Taking
) -> AsyncIterator[list[ClaimedTrajectory]]:
    """Do what `batches` does."""
    while (pause := taking.pause(found := await take())) is not None:
        if found.claims:
            async with _held_awaited(client, [one.receipt for one in found.claims], taking.lease):
                yield found.claims
        else:
            await asyncio.sleep(pause)


@contextlib.asynccontextmanager
async def _held_awaited(
    client: Awaited, receipts: Sequence[str], lease: float
) -> AsyncIterator[None]:
    async def extend() -> None:
        while True:
            await asyncio.sleep(lease / 3)
            with contextlib.suppress(GatewayClientError):
                await client.extend(receipts, lease)

    task = asyncio.create_task(extend())
    try:
        yield
    except BaseException:
        task.cancel()
        with contextlib.suppress(GatewayClientError):
            await client.release(receipts)
        raise
    else:
        await _acknowledge_awaited(client, receipts, time.monotonic() + lease)
    finally:
        task.cancel()


async def _acknowledge_awaited(client: Awaited, receipts: Sequence[str], until: float) -> None:
    while True:
        try:
            return check(await client.acknowledge(receipts))
        except GatewayClientError as error:
            if not may_retry(error, until):
                raise
        await asyncio.sleep(RETRY)
