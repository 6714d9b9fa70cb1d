"""Pauses for workers that refuse calls which they have not run, such as one that loads its model.

A paused worker is left out while another one has room. Calls that it has refused wait until the
pause is over, and then come back a few at a time: one, then two, then four, and so on, so that a
worker that is still busy refuses one call and not all that wait. A call that it has not refused yet
may ask it if nobody else has room: the refusal may have been for that one call.
"""

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic

from gateway import Call, Worker

CONDITION = "backpressure"
"""Owner of the condition of a paused worker."""

MIN_PAUSE, MAX_PAUSE = 0.1, 2.0
"""Seconds of the first pause, and of the longest one; each is twice as long as the one before."""

MAX_ASKED_FOR = 5.0
"""Seconds of a pause that the worker may ask for at most (`Retry-After`)."""

STEP = 0.2
"""Seconds between two groups of calls that come back; a busy worker refuses much faster."""

LAST_STEP = 64
"""Size of the last group: after it, the worker counts as well again."""

ALL = 1 << 30
"""More calls than can wait."""

MAX_PAUSES = 64
"""Maximum pauses at a time: there is one for each model, and callers make names up."""


class Pause:
    """Of one worker, for calls that name one model; `left` calls that it has refused may ask now.

    `group` is the size of the present group, 0 while none may ask. `began` is monotonic seconds.
    """

    __slots__ = ("began", "group", "left", "seconds", "timer")

    def __init__(self) -> None:
        self.began = float("-inf")
        self.group = self.left = 0
        self.seconds = 0.0
        self.timer: asyncio.TimerHandle | None = None

    def begin(self, worker: Worker, asked_for: float) -> None:
        """Begin, or begin again; longer each time, unless a call went well since the last time."""
        longer = self.seconds and worker.answered_at < self.began
        self.seconds = min(2 * self.seconds, MAX_PAUSE) if longer else MIN_PAUSE
        self.seconds = max(self.seconds, min(asked_for, MAX_ASKED_FOR))
        self.began = monotonic()
        self.group = self.left = 0


class Pauses:
    """All pauses of one gateway.

    `on_room` is called with a worker and the number of calls that may ask it again.
    """

    def __init__(self, on_room: Callable[[Worker, int], None]) -> None:
        self.there: dict[tuple[Worker, str | None], Pause] = {}
        self._on_room = on_room

    def refused(self, worker: Worker, model: str | None, began: float, asked_for: float) -> bool:
        """Pause the worker, which refused an attempt of the time `began`; False if that cannot be.

        A worker refuses many calls at once, so attempts that began before the pause say nothing
        new.
        """
        pause = self.there.get((worker, model))
        if pause is None:
            if len(self.there) >= MAX_PAUSES:
                return False
            pause = self.there[worker, model] = Pause()
        if began > pause.began:
            pause.begin(worker, asked_for)
            self._schedule(worker, model, pause, pause.seconds)
            self._show(worker)
        return True

    def open_to(
        self, call: Call, workers: Sequence[Worker], room: Callable[[Sequence[Worker]], object]
    ) -> Sequence[Worker]:
        """Return those of `workers` that the call may ask; `room` tells whether any has a slot.

        Workers that are not paused come first, then those that have not refused the call.
        """
        well = [one for one in workers if (one, call.model) not in self.there]
        if len(well) == len(workers) or room(well):
            return well
        refused = {attempt.worker for attempt in call.attempts if attempt.refused}
        new = [one for one in workers if one not in refused]
        return new if room(new) else self._turn(call, workers, room) or new

    def _turn(
        self, call: Call, workers: Sequence[Worker], room: Callable[[Sequence[Worker]], object]
    ) -> Sequence[Worker]:
        """Return a worker that the call may ask again, and count it as one of those that do."""
        for worker in workers:
            pause = self.there.get((worker, call.model))
            if pause is not None and pause.left and room([worker]):
                pause.left -= 1
                return [worker]
        return ()

    def close(self) -> None:
        """End all pauses."""
        for worker, model in list(self.there):
            self._end(worker, model)

    def _schedule(self, worker: Worker, model: str | None, pause: Pause, seconds: float) -> None:
        if pause.timer is not None:
            pause.timer.cancel()
        loop = asyncio.get_running_loop()
        pause.timer = loop.call_later(seconds, self._step, worker, model, pause)

    def _step(self, worker: Worker, model: str | None, pause: Pause) -> None:
        """Let the next group ask; after the last one, end the pause."""
        pause.group = pause.left = 2 * pause.group or 1
        if pause.group > LAST_STEP:
            self._end(worker, model)
            self._on_room(worker, ALL)
        else:
            self._schedule(worker, model, pause, STEP)
            self._on_room(worker, pause.left)

    def _end(self, worker: Worker, model: str | None) -> None:
        timer = self.there.pop((worker, model)).timer
        if timer is not None:
            timer.cancel()
        if not any(other is worker for other, _ in self.there):
            worker.clear(CONDITION)

    def _show(self, worker: Worker) -> None:
        if CONDITION not in worker.conditions:
            reason = "it refuses calls and has not run them; they wait, and ask again one by one"
            worker.mark(CONDITION, "busy", reason, blocks=False)
