"""The calls in flight are journalled: from before a worker is asked until they are in the books."""

import asyncio
import logging

import msgspec

from gateway import Call, Gateway
from gateway_plugins.usage.journal import Ended, Journal
from gateway_plugins.usage.ledger import LONGEST, Row
from gateway_plugins.usage.opening import is_in_memory

log = logging.getLogger("gateway.usage")

EVERY = 0.1
"""Seconds between two notes of what has come of a call."""


class Underway(msgspec.Struct, eq=False):
    """A call with its slot, and what was last noted of it."""

    call: Call
    slot: int
    worker: str = ""
    tokens: int = 0


class Flight:
    """Keeps a journal; calls for which it has no room go on without, and `unnoted` counts them.

    `ended` may be called in any thread, all else in the event loop.
    """

    def __init__(self, journal: Journal) -> None:
        self.unnoted = 0
        self._journal = journal
        self._underway: dict[bytes, Underway] = {}
        self._slots: dict[bytes, int] = {}
        self._told = False

    def begin(self, call: Call, key: str) -> None:
        """The call may be sent to a worker from now on."""
        call_id = bytes.fromhex(call.trace_id)
        prompt, model = call.prompt_estimate, (call.model or "")[:LONGEST]
        slot = self._taken(call_id, call.created, prompt, key, model, call.source)
        if slot is not None:
            self._underway[call_id] = Underway(call, slot)

    def _taken(
        self, call_id: bytes, time: float, prompt: int, key: str, model: str, source: str
    ) -> int | None:
        try:
            slot = self._journal.begin(call_id, time, prompt, key, model, source)
        except OSError as error:
            slot = None
            self._tell(error)
        if slot is None:
            self.unnoted += 1
        else:
            self._slots[call_id] = slot
        return slot

    def over(self, call_id: bytes) -> None:
        """The call is, and its row is about to be stored: no more can come of it."""
        self._underway.pop(call_id, None)

    def keep(self, row: Row) -> bool:
        """Write down what has become of the call; False: there is no slot for it.

        Nobody need wait then until the row is stored, for it is not lost with the process.
        """
        slot = self._slots.get(row.id)
        if slot is None:  # the call was refused before it had one
            slot = self._taken(row.id, row.time, 0, row.key, row.model, row.source)
        if slot is None:
            return False
        used = row.prompt_tokens, row.cached_tokens, row.reasoning_tokens
        ended = Ended(row.outcome, row.counted, *used)
        self._journal.note(slot, row.worker, row.completion_tokens, ended)
        return True

    def ended(self, call_id: bytes) -> None:
        """It is in the books, or known to be in none."""
        slot = self._slots.pop(call_id, None)
        if slot is not None:
            self._journal.end(slot)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(EVERY)
            self.note()

    def note(self) -> None:
        """Write down who answers each call, and how much has come."""
        for one in self._underway.values():
            attempts = one.call.attempts
            if not attempts:
                continue
            worker, tokens = attempts[-1].worker.id, one.call.completion_so_far
            if tokens != one.tokens or worker != one.worker:
                self._journal.note(one.slot, worker, tokens)
                one.worker, one.tokens = worker, tokens

    def close(self) -> None:
        """The journal is removed once no call is in it."""
        self._journal.close()

    def _tell(self, error: OSError) -> None:
        if not self._told:
            log.warning("the journal of calls in flight cannot grow, they go on: %s", error)
            self._told = True


def begun(gateway: Gateway) -> Flight | None:
    """Beside the gateway's database; None where that is in memory, or no file can be."""
    if is_in_memory(gateway.config):
        return None
    try:
        return Flight(Journal(gateway.storage.path, gateway.config.limits.max_calls))
    except (OSError, AttributeError) as error:  # macOS has no posix_fallocate
        log.warning("there is no journal, calls in flight at a kill are not counted: %s", error)
        return None
