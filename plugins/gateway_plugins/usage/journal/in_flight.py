"""Journals the calls in flight: from before the first attempt until the call is in the ledger."""

import asyncio
import logging
from collections.abc import Iterable

import msgspec

from gateway import Call, Host
from gateway_plugins.usage.journal.file import Journal, Slot
from gateway_plugins.usage.ledger.row import MAX_NAME, Row

log = logging.getLogger("gateway.usage")

INTERVAL = 0.1
"""Seconds between two updates of the journal."""


class Underway(msgspec.Struct, eq=False, gc=False):
    """A call that is counted for `key`, with its slot, and the state last written to that slot.

    `id` is that of its trace; `slot` is None if the journal had no room.
    """

    call: Call
    id: bytes
    key: str
    slot: Slot | None
    worker: str = ""
    tokens: int = 0


class Flight:
    """Writes the journal. `unnoted` counts the calls that it had no room for; they go on without.

    `underway` has the calls whose slots are updated. Take one out when it is over: its row is about
    to be stored. `ended` may be called in any thread, all other methods only in the event loop.
    """

    def __init__(self, journal: Journal) -> None:
        self.unnoted = 0
        self.underway: dict[Call, Underway] = {}
        self._journal = journal
        self._slots: dict[bytes, Slot] = {}
        self._has_warned = False

    def begin(self, call: Call, key: str) -> None:
        """Journal a call, before it may be sent to a worker."""
        call_id, model = bytes.fromhex(call.trace_id), (call.model or "")[:MAX_NAME]
        prompt = call.body.prompt_estimate
        repeatable = call.runs_again is not None
        slot = self._taken(call_id, call.created, prompt, key, model, call.source, repeatable)
        self.underway[call] = Underway(call, call_id, key, slot)

    def keep(self, row: Row, slot: Slot | None) -> bool:
        """Write how the call ended to its slot; return False if there is no slot for it.

        If True, the row survives the process, so nothing has to wait until the row is stored.
        """
        if slot is None:  # the call was rejected before it got a slot
            slot = self._taken(row.id, row.time, 0, row.key, row.model, row.source)
            if slot is None:
                return False
        ended = (
            row.outcome,
            row.counted | row.unread << 1,
            row.prompt_tokens,
            row.cached_tokens,
            row.reasoning_tokens,
        )
        self._journal.note(slot, row.worker, row.completion_tokens, ended)
        return True

    def _taken(
        self,
        call_id: bytes,
        time: float,
        prompt: int,
        key: str,
        model: str,
        source: str,
        repeatable: bool = False,
    ) -> Slot | None:
        """Return a slot of the journal for the call, None if it has no room."""
        try:
            slot = self._journal.begin(
                call_id, time, prompt, key, model, source, repeatable=repeatable
            )
        except OSError as error:
            self._warn(error)
            slot = None
        if slot is None:
            self.unnoted += 1
        else:
            self._slots[call_id] = slot
        return slot

    def ended(self, call_ids: Iterable[bytes]) -> None:
        """Free the slots of calls whose rows are committed, or known to be lost."""
        slots = self._slots
        ended = [slots.pop(one) for one in call_ids if one in slots]
        if ended:
            self._journal.end(*ended)

    async def run(self) -> None:
        """Update the journal until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL)
            self.note()

    def note(self) -> None:
        """Write the current worker and completion tokens of each call whose values changed."""
        for one in self.underway.values():
            attempts = one.call.attempts
            if one.slot is None or not attempts:
                continue
            worker, tokens = attempts[-1].worker.id, one.call.completion_so_far
            if tokens != one.tokens or worker != one.worker:
                self._journal.note(one.slot, worker, tokens)
                one.worker, one.tokens = worker, tokens

    def close(self) -> None:
        """Close the journal; its file is removed once no call is in it."""
        self._journal.close()

    def _warn(self, error: OSError) -> None:
        """Log the first error of a journal that cannot grow."""
        if not self._has_warned:
            log.warning("the journal of calls in flight cannot grow, they go on: %s", error)
            self._has_warned = True


def begun(gateway: Host) -> Flight | None:
    """Open a journal beside the gateway's database.

    None if the database is in memory, or if the file cannot be created.
    """
    if gateway.config.storage.in_memory:
        return None
    try:
        return Flight(Journal(gateway.storage.path, gateway.config.server_limits.max_calls))
    except (OSError, AttributeError) as error:  # macOS has no posix_fallocate
        log.warning("there is no journal, calls in flight at a kill are not counted: %s", error)
        return None
