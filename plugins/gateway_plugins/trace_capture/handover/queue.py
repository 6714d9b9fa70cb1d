"""The queue of trajectories, as trainers see it: joins the rooms' files, and counts."""

import contextlib
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import msgspec
from msgspec.structs import replace

from gateway import Database, Sample, Storage, StorageError
from gateway_plugins.trace_capture.handover.claiming import (
    Claim,
    Room,
    drop_stale,
    first_open,
    lease,
)
from gateway_plugins.trace_capture.handover.filters import Wanted
from gateway_plugins.trace_capture.handover.intake import take_in
from gateway_plugins.trace_capture.handover.reading import Built, read
from gateway_plugins.trace_capture.handover.settling import (
    SLICE,
    Settled,
    Settling,
    expire,
    forget_old,
    set_aside,
    take_back,
)
from gateway_plugins.trace_capture.handover.unfolding import choose, first_grown, note, unfold

MAX_READ = 64
"""Sessions that are read between two transactions."""

MAX_SECONDS = 10.0
"""Seconds after which a request is answered, with what was found by then."""

EVENTS = (
    "claimed",
    "acknowledged",
    "released",
    "extended",
    "expired",
    "stale",
    "refused",
    "unreadable",
)


class Ask(msgspec.Struct, frozen=True):
    """A request for up to `count` trajectories, for `seconds`; `drop`: old ones are dropped."""

    wanted: Wanted
    count: int
    seconds: float
    drop: bool = False


class Found(msgspec.Struct):
    """What was leased. `more`: there may be more at once. `stale` trajectories were dropped."""

    claims: list[Claim]
    more: bool = True
    stale: int = 0


class HandedOut(msgspec.Struct, frozen=True):
    """The claims as JSON, each a ClaimedTrajectory; `more` and `stale` as in Found."""

    claims: list[msgspec.Raw]
    more: bool
    stale: int


class Handover:
    """Hands trajectories over to trainers. All methods raise StorageError.

    `counts` has how often each of EVENTS happened to a claim in this process.
    """

    def __init__(self, storage: Storage, counts: Counter[str]) -> None:
        self._storage = storage
        self._counts = counts

    async def claim(self, ask: Ask) -> HandedOut:
        """Claim trajectories and build them. On any error, none of them stays leased."""
        found = Found([])
        try:
            await self._find(ask, found)
            built = await self._storage.read(partial(read, claims=found.claims))
            await self._sort_out(built)
        except BaseException:
            if found.claims:
                with contextlib.suppress(StorageError):  # the first error says more
                    await self._storage.write(partial(take_back, claims=found.claims))
            raise
        self._count(claimed=len(built.claims))
        return HandedOut(built.claims, found.more or bool(built.left), found.stale)

    async def _sort_out(self, built: Built) -> None:
        """Open again what was too much, and set aside what cannot be read."""
        if not built.left and not built.unreadable:
            return

        def run(db: Database) -> int:
            take_back(db, built.left)
            return set_aside(db, built.unreadable, time.time())

        self._count(unreadable=await self._storage.write(run))

    async def _find(self, ask: Ask, found: Found) -> None:
        """Lease trajectories, after reading as many sessions that have grown, in the same order."""
        reader, unread = secrets.token_hex(8), ask.count
        ends = time.monotonic() + MAX_SECONDS
        while await self._take_in() and time.monotonic() < ends:
            pass
        while True:
            late = time.monotonic() >= ends
            wanted, grown = await self._storage.read(partial(_start, wanted=ask.wanted))
            if unread > 0 and wanted.grown_from is not None and not late:
                unread -= await self._unfold(wanted, min(unread, MAX_READ), reader)
                continue
            full = await self._lease(ask, wanted, found)
            found.more = grown or full
            if full or late or unread > 0:  # there was no session to be read
                break
            unread = ask.count - len(found.claims)

    async def _take_in(self) -> bool:
        """Note what has happened since; return whether there may be more."""

        def run(db: Database) -> tuple[bool, int]:
            now = time.time()
            forget_old(db, now)
            return take_in(db), expire(db, now)

        more, expired = await self._storage.write(run)
        self._count(expired=expired)
        return more or expired == SLICE

    async def _lease(self, ask: Ask, wanted: Wanted, found: Found) -> bool:
        """Add to what was claimed; return whether there is no room for more."""
        if wanted.open_from is None and not ask.drop:
            return False

        def run(db: Database) -> tuple[int, list[Claim], bool]:
            stale = drop_stale(db, wanted) if ask.drop else 0
            room = Room(ask.count, found.claims)
            claims = lease(db, wanted, room, time.time() + ask.seconds)
            return stale, claims, room.count <= 0

        stale, claims, full = await self._storage.write(run)
        self._count(stale=stale)
        found.claims += claims
        found.stale += stale
        return full

    async def _unfold(self, wanted: Wanted, most: int, reader: str) -> int:
        """Read sessions that have grown; return their number, 1 if others were quicker."""
        chosen = await self._storage.write(partial(choose, wanted=wanted, most=most, reader=reader))
        read = [(one, await self._storage.read(partial(unfold, session=one))) for one in chosen]

        def note_all(db: Database) -> None:
            for session, rows in read:
                note(db, session, reader, rows)

        if chosen:
            await self._storage.write(note_all)
        return max(len(chosen), 1)

    async def acknowledge(self, receipts: Sequence[str], owner: str | None) -> Settled:
        return await self._settle("acknowledged", owner, lambda one: one.acknowledge(receipts))

    async def release(self, receipts: Sequence[str], owner: str | None) -> Settled:
        return await self._settle("released", owner, lambda one: one.release(receipts))

    async def extend(self, receipts: Sequence[str], owner: str | None, seconds: float) -> Settled:
        until = time.time() + seconds
        return await self._settle("extended", owner, lambda one: one.extend(receipts, until))

    async def _settle(
        self, event: str, owner: str | None, change: Callable[[Settling], Settled]
    ) -> Settled:
        def run(db: Database) -> tuple[Settled, int]:
            settling = Settling(db, owner, time.time())
            return change(settling), settling.changed

        done, changed = await self._storage.write(run)
        self._count(**{event: changed, "refused": len(done.failed)})
        return done

    def _count(self, **events: int) -> None:
        self._counts.update(events)


def _start(db: Database, wanted: Wanted) -> tuple[Wanted, bool]:
    """Return where a writer may begin, without a look at what does not match; None: it need not.

    Also returns whether there are sessions to be read, perhaps by others at this moment.
    """
    opened, (grown, left) = first_open(db, wanted), first_grown(db, wanted)
    by_age = wanted.order == "age"
    return replace(
        wanted,
        open_from=None if opened is None else opened.at if by_age else 0.0,
        grown_from=None if grown is None else grown.last_at if by_age else 0.0,
    ), left


def samples(counts: Counter[str]) -> Iterator[Sample]:
    """Yield how often each of EVENTS happened to a claim."""
    help_ = "Claims of trajectories, by what happened to them."
    for event in EVENTS:
        labels = {"event": event}
        yield Sample("gateway_trajectory_claims_total", "counter", counts[event], help_, labels)
