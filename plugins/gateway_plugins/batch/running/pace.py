"""How many items may be in flight: what realtime calls leave of each worker.

A worker has a window for all its calls, see `window.py`, and may have a limit (backpressure). Of
the smaller of both, as many places are kept for realtime calls as there were such calls at a time
of late, and a few more: a realtime call that finds all places taken waits for the end of an item.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import monotonic

import msgspec

from gateway import Attempt, Call, Worker, Workers
from gateway_plugins.batch.options import Options
from gateway_plugins.batch.running.lateness import Finding, Lateness
from gateway_plugins.batch.running.window import Window

UNKNOWN_MODEL = 4
"""Items in flight for models that no worker serves: each gets the error of a realtime call."""

PEAK = 30.0
"""Seconds for which the most realtime calls at a time are remembered, or up to twice as long."""

SPARE = 8
"""One more place is kept for each so many realtime calls."""

SAMPLE = 0.02
"""Seconds between two counts of the realtime calls."""

USED = 3 / 4
"""Share of the items a worker may have from which on its window is used whole: some have always
just ended, and others have not begun."""

NEARLY = 0.9
"""Share of the calls that were too many that becomes the ceiling of a window."""

MEMORY = 4.0
"""Seconds over which the rate of calls is measured."""

LONG = 2.0
"""Times the usual time to first bytes from which on calls wait for long within an engine."""

FRESH = 1 / 4
"""Weight of the latest look in the average of how many calls wait in an engine."""

KNOWN_REST = 60.0
"""Seconds for which a ceiling stands at least that an engine has told."""

QUEUED = 2
"""Calls that may wait in an engine: those of a moment wait for its next step."""

REFUSED = frozenset((429, 503))


class Realtime(msgspec.Struct, eq=False):
    """The realtime calls in flight at one worker: `now`, and the most of late."""

    now: int = 0
    recent: int = 0
    before: int = 0
    since: float = 0.0

    def count(self, calls: int, at: float, *, piled: bool) -> None:
        """There are so many `calls` at this `time.monotonic()`; `piled` up behind items, or not."""
        self.now = calls
        if piled:
            return
        if at - self.since > PEAK:
            self.before = self.recent if at - self.since < 2 * PEAK else 0
            self.recent, self.since = 0, at
        self.recent = max(self.recent, calls)

    def forget(self) -> None:
        """Calls of late have piled up behind items, so they tell little of how many come."""
        self.recent = self.before or min(self.recent, self.now)

    @property
    def most(self) -> int:
        """How many there were of late at most."""
        return max(self.recent, self.before)

    @property
    def reserve(self) -> int:
        """Places to keep for calls that are not there now."""
        most = self.most
        return most - self.now + 1 + most // SPARE


class Place(msgspec.Struct, eq=False):
    """What is known of one worker.

    `full_until`: when it last had more calls than its window, which had become smaller. `queue`
    is the average of how many calls wait in the engine. `ended` counts the calls that
    have ended since `since`.
    """

    window: Window = msgspec.field(default_factory=Window)
    lateness: Lateness = msgspec.field(default_factory=Lateness)
    realtime: Realtime = msgspec.field(default_factory=Realtime)
    items: int = 0
    full_until: float = 0.0
    queue: float = 0.0
    ended: float = 0.0
    since: float = 0.0

    def rate(self, now: float) -> float:
        """Return how many calls end in a second, mostly of late."""
        passed = max(now - self.since, 1e-3)
        if passed > MEMORY:
            self.ended, self.since = self.ended / passed * MEMORY / 2, now - MEMORY / 2
            return self.ended / (MEMORY / 2)
        return self.ended / passed


class Pace:
    """The windows of all workers. `items` returns the calls of the items in flight."""

    def __init__(
        self,
        workers: Workers,
        options: Options,
        processes: int,
        items: Callable[[], Iterable[Call]],
    ) -> None:
        self._workers = workers
        self._processes = processes
        self._most = max(options.max_concurrent // processes, 1)
        self._least = options.min_concurrent
        self._items = items
        self._places: dict[str, Place] = {}
        self._sampled = -math.inf
        self.running: Counter[str] = Counter()

    def rooms(self) -> tuple[Mapping[str, int], int, int]:
        """Return the room of each known model, that of each other one, and that of all together."""
        workers = self._workers
        self._count(monotonic())
        every = self._room(workers.fit, self.running.total())
        if not workers.mixed:
            return {}, every, every
        names = {name for worker in workers.all for name in worker.models or ()}
        rooms = {
            name: self._room(workers.serving(name).fit, self.running[name])
            for name in names | self.running.keys() | workers.loadable
            if workers.serving(name).all or workers.may_load(name)
        }
        strange = sum(count for name, count in self.running.items() if name not in rooms)
        others = max(UNKNOWN_MODEL - strange, 0)
        return rooms, others, every + others

    def room_of(self, model: str) -> int:
        """Return how many more items of the model may run; below 0: there are too many now."""
        workers = self._workers
        fit = workers.serving(model).fit if workers.mixed else workers.fit
        running = self.running[model] if workers.mixed else self.running.total()
        return min(sum(map(self._share, fit)) - running, self._overall() - 1)

    def beside(self, model: str) -> frozenset[str]:
        """Return the models that may run in a place of this one, itself among them; none: all."""
        workers = self._workers
        if not workers.mixed:
            return frozenset()
        names = (name for one in workers.serving(model).all for name in one.models or ())
        return frozenset((model, *names))

    def _room(self, fit: Sequence[Worker], running: int) -> int:
        """Return how many more items these workers take; `running` may wait in the gateway."""
        left = whole = 0
        for worker in fit:
            share = self._share(worker)
            whole += share
            left += max(share - self._place(worker).items, 0)
        room = min(left, whole - running, self._overall())
        return max(room, self._least - running if fit else 0, 0)

    def _share(self, worker: Worker) -> int:
        """Return how many items this worker may have."""
        place = self._place(worker)
        realtime, limit = place.realtime.now + place.realtime.reserve, worker.slots.limit
        whole = place.window.calls(realtime)
        if limit is not None:
            whole = min(whole, limit)
        return max(min(whole - realtime, self._most), 0)

    def _overall(self) -> int:
        """Return the room that a limit of all workers together leaves."""
        slots = self._workers.slots
        if slots.limit is None:
            return self._most * max(len(self._workers.fit), 1)
        reserve = max((place.realtime.reserve for place in self._places.values()), default=1)
        return slots.limit - slots.used - reserve

    def _place(self, worker: Worker) -> Place:
        place = self._places.get(worker.id)
        if place is None:
            place = self._places[worker.id] = Place()
        return place

    def _count(self, now: float) -> None:
        """Count items and realtime calls at each worker, unless that was done just now."""
        if now - self._sampled < SAMPLE:
            return
        self._sampled = now
        items = Counter(
            call.attempts[-1].worker.id
            for call in self._items()
            if call.attempts and call.attempts[-1].ended is None
        )
        for worker in self._workers.all:
            place = self._place(worker)
            place.items = items[worker.id]
            piled = worker.in_flight > place.window.most
            place.realtime.count(worker.in_flight - place.items, now, piled=piled)
        if len(self._places) > len(self._workers.all):
            known = {worker.id for worker in self._workers.all}
            self._places = {name: one for name, one in self._places.items() if name in known}

    def begin(self, model: str) -> None:
        self.running[model] += 1

    def end(self, model: str) -> None:
        self.running[model] -= 1
        if not self.running[model]:
            del self.running[model]

    def attempt_ended(self, call: Call, attempt: Attempt, *, is_item: bool) -> None:
        """Learn from an attempt of an item, or of a realtime call."""
        place, now = self._place(attempt.worker), monotonic()
        window, in_flight = place.window, attempt.worker.in_flight
        place.ended += 1
        if attempt.status in REFUSED:
            window.shrink(in_flight / 2, in_flight * NEARLY, now)
        elif is_item:
            items = in_flight - place.realtime.now
            if attempt.error is None and items >= USED * self._share(attempt.worker):
                realtime = place.realtime
                most = self._most + realtime.now + realtime.reserve
                window.widen(most, now, beside=realtime.most > 0)
        elif attempt.first_byte is not None and call.streams:
            self._count(now)
            self._learn_time(place, attempt, attempt.first_byte - attempt.started, now)

    def _learn_time(self, place: Place, attempt: Attempt, seconds: float, now: float) -> None:
        window, lateness, in_flight = place.window, place.lateness, attempt.worker.in_flight
        if in_flight > place.window.most:
            place.full_until = now
        if place.items <= self._least:
            lateness.note_alone(seconds)
            return
        if lateness.blame is not None and attempt.started <= place.full_until:
            return  # there are not yet fewer items
        match lateness.note_beside(seconds, attempt.started, place.items):
            case Finding.BLAMED:
                window.shrink(in_flight * 0.7, in_flight * NEARLY, now)
                place.realtime.forget()
                place.full_until = now
            case Finding.ACQUITTED:
                window.undo()
        if lateness.blame is None:
            window.before = None

    def busy(self) -> Sequence[Worker]:
        """Return the workers at which items run."""
        return [one for one in self._workers.fit if self._place(one).items]

    def note_queue(self, worker: Worker, waiting: int) -> None:
        """Learn how many calls wait within the engine, those of other processes included.

        By Little's law a call waits there for as long as the engine takes to end so many. An engine
        may count calls as waiting until their first token, so that this time has to be longer, and
        items that have just begun do not count.
        """
        place, in_flight, now = self._place(worker), worker.in_flight, monotonic()
        usual, rate = place.lateness.usual, place.rate(now) * self._processes
        if usual is None or place.items <= self._least or in_flight > place.window.most:
            place.queue = 0.0  # no harm is known; or there are not yet fewer items
            return
        waiting = max(waiting - self._begun(worker, now - LONG * usual), 0)
        place.queue += (waiting - place.queue) * FRESH
        if waiting > QUEUED and place.queue > max(LONG * usual * rate, QUEUED):
            most = in_flight - waiting / self._processes
            place.window.shrink(most, most, now, rest=KNOWN_REST)
            place.realtime.forget()
            place.queue = 0.0

    def _begun(self, worker: Worker, since: float) -> int:
        """Return how many items have begun at the worker since then."""
        latest = (call.attempts[-1] for call in self._items() if call.attempts)
        return sum(one.worker is worker and one.started > since for one in latest)

    def windows(self) -> Mapping[str, float]:
        """Return the present window of each worker of which something is known, by its id."""
        known = self._places
        return {one.id: known[one.id].window.size for one in self._workers.all if one.id in known}
