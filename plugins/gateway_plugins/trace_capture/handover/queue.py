"""The queue of trajectories, as trainers see it: joins the rooms' files, and counts."""

import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import msgspec

from gateway import Database, Sample, Storage
from gateway_plugins.trace_capture.handover.claiming import Claim, Room, drop_stale, lease
from gateway_plugins.trace_capture.handover.filters import Wanted
from gateway_plugins.trace_capture.handover.intake import take_in
from gateway_plugins.trace_capture.handover.settling import Settled, Settling, expire, forget_old
from gateway_plugins.trace_capture.handover.unfolding import Grown, are_left, choose, note, unfold

MAX_READ = 64
"""Sessions that are read between two transactions."""

MAX_SECONDS = 10.0
"""Seconds after which a request is answered, with what was found by then."""

EVENTS = ("claimed", "acknowledged", "released", "extended", "expired", "stale", "refused")


class Ask(msgspec.Struct, frozen=True):
    """A request for up to `count` trajectories, for `seconds`; `drop`: old ones are dropped."""

    wanted: Wanted
    count: int
    seconds: float
    drop: bool = False


class Found(msgspec.Struct):
    """What was claimed. `more`: there may be more at once. `stale` trajectories were dropped."""

    claims: list[Claim]
    more: bool = True
    stale: int = 0


class _Look(msgspec.Struct):
    """The result of one transaction: sessions to be read first, else what was claimed.

    `unseen`: there are traces that were not taken in. `left`: there are sessions to be read,
    perhaps by others at this moment. `full`: there is no room for more.
    """

    sessions: list[Grown] = []
    claims: list[Claim] = []
    unseen: bool = False
    left: bool = False
    full: bool = False
    expired: int = 0
    stale: int = 0


class Handover:
    """Hands trajectories over to trainers. All methods raise StorageError.

    `counts` has how often each of EVENTS happened to a claim in this process.
    """

    def __init__(self, storage: Storage, counts: Counter[str]) -> None:
        self._storage = storage
        self._counts = counts

    async def claim(self, ask: Ask) -> Found:
        """Claim trajectories, after reading as many sessions that have grown, in the same order."""
        found, reader, unread = Found([]), secrets.token_hex(8), ask.count
        ends = time.monotonic() + MAX_SECONDS
        while time.monotonic() < ends:
            look = await self._storage.write(
                partial(_look, ask=ask, claims=found.claims, reader=reader, unread=unread)
            )
            self._count(claimed=len(look.claims), expired=look.expired, stale=look.stale)
            found.claims += look.claims
            found.stale += look.stale
            if look.sessions:
                await self._unfold(look.sessions, reader)
                unread -= len(look.sessions)
            elif not look.unseen:
                found.more = look.left or look.full
                if look.full or unread > 0:  # there was no session to be read
                    break
                unread = ask.count - len(found.claims)
        return found

    async def _unfold(self, chosen: Sequence[Grown], reader: str) -> None:
        read = [(one, await self._storage.read(partial(unfold, session=one))) for one in chosen]

        def note_all(db: Database) -> None:
            for session, rows in read:
                note(db, session, reader, rows)

        await self._storage.write(note_all)

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


def _look(db: Database, ask: Ask, claims: Sequence[Claim], reader: str, unread: int) -> _Look:
    """Choose up to `unread` sessions; if there are none to be read, claim beside `claims`."""
    if take_in(db):
        return _Look(unseen=True)
    wanted, now = ask.wanted, time.time()
    look = _Look(expired=expire(db, now))
    forget_old(db, now)
    if unread > 0:
        look.sessions = choose(db, wanted, min(unread, MAX_READ), reader)
    if look.sessions:
        return look
    if ask.drop:
        look.stale = drop_stale(db, wanted)
    room = Room(ask.count, claims)
    look.claims = lease(db, wanted, room, now + ask.seconds)
    look.full, look.left = room.count <= 0, are_left(db, wanted)
    return look


def samples(counts: Counter[str]) -> Iterator[Sample]:
    """Yield how often each of EVENTS happened to a claim."""
    help_ = "Claims of trajectories, by what happened to them."
    for event in EVENTS:
        labels = {"event": event}
        yield Sample("gateway_trajectory_claims_total", "counter", counts[event], help_, labels)
