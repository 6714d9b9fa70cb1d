"""The rules of the system that we replace, for comparison.

Modelled, from what is known of that system:

- Its planner takes turns of a second, of two when it has nothing to do, and none while it loads a
  model or runs a segment. Its bucket (3) gets 0.000555 tokens a turn.
- The score of a model is the sum of the priorities of its items. A model with items stays; else the
  best comes, for which a token must be there, and if the realtime model is to go, no realtime call
  for 600 s; only then is a token taken. Without any items the realtime model comes back.
- A segment claims all items that a model has, 64 at a time; items that come later wait for its end.
- A realtime call while a batch model is there ends the segment: always after 3 s, with no minimum.
  If an item ends within them the others wait again; else those that run end as errors.
- While a batch model loads in place of the realtime model, calls reach the wrong engine and get an
  error; the load goes on. A load between two batch models is given up within a second.
- Other calls get 503, and `Retry-After` counts down from 120 s to no less than 10 s.
- A load that fails drops the model's items. Nothing is loaded then, while the realtime model counts
  as present, until a call comes.

Not modelled: restarts, loads in competition, and that it loses items when a process ends.
Its callers are patient: they come back when `Retry-After` has passed, or 5 s after an error.
"""

from collections import defaultdict, deque

from gateway_plugins.runtime.policy.simulation.box import AT_ONCE, Box
from gateway_plugins.runtime.policy.simulation.load import REALTIME, Call, Item, Load

TURN, IDLE_TURN = 1.0, 2.0
MOST_TOKENS, TOKENS_A_TURN = 3.0, 0.000555
MIN_HOT = 600.0
PREEMPTION = 3.0
ABORT = 1.0
MOST_RETRY, LEAST_RETRY = 120.0, 10.0
AFTER_ERROR = 5.0


class Replaced(Box):
    """`believed` is the model that its planner takes for the present one."""

    def __init__(self, load: Load) -> None:
        super().__init__(load)
        self.tokens = MOST_TOKENS
        self.believed = REALTIME
        self._scores: defaultdict[str, int] = defaultdict(int)
        self._waiting: defaultdict[str, deque[Item]] = defaultdict(deque)
        self._segment: deque[Item] = deque()
        self._busy = True
        self._flagged = False
        self._realtime_at = -MIN_HOT

    def begin(self) -> None:
        self.load(REALTIME)

    def came(self, call: Call) -> None:
        self._realtime_at = self.now
        if self.serves_calls:
            self.serve(call)
        elif self.state == "loading" and self.model != REALTIME and self.believed == REALTIME:
            self._refuse(call, AFTER_ERROR)
        else:
            self._recall()
            self._refuse(call, self._retry_after())

    def submitted(self, item: Item) -> None:
        self._wait(item)

    def loaded(self) -> None:
        self.believed = self.model or REALTIME
        self._busy = False
        self._turn()

    def failed(self, model: str) -> None:
        self.believed = REALTIME
        for item in self._waiting.pop(model, ()):
            self.count(item, -1)
            self.lose(item)
        self._scores.pop(model, None)
        self._busy = False
        self._turn()

    def freed(self) -> None:
        if self._flagged and self._segment_open:
            self._requeue()
        elif not self._flagged:
            self._run_segment()

    # the callers

    def _refuse(self, call: Call, seconds: float) -> None:
        self.record.refused += 1
        self.at(self.now + seconds, lambda: self.came(call))

    def _retry_after(self) -> float:
        loading = self.state == "loading" and self.model == REALTIME
        elapsed = self.now - self.since if loading else 0.0
        return max(LEAST_RETRY, MOST_RETRY - elapsed)

    def _recall(self) -> None:
        """The realtime model is to come, if it is not on its way."""
        if self._flagged or (self.state == "loading" and self.model == REALTIME):
            return
        self._flagged = True
        there = self.state in ("idle", "working")
        self.at(self.now + (PREEMPTION if there else ABORT), self._kill)

    def _kill(self) -> None:
        """Items that run now end as errors; those claimed besides wait again."""
        for item in self.items:
            self.lose(item)
        self.items.clear()
        self._requeue()
        self._flagged = False
        self._busy = True
        self.load(REALTIME)

    def _requeue(self) -> None:
        for item in self.items:
            self.count(item, 1)
        back = sorted([*self.items, *self._segment], key=lambda item: item.at)
        self.items.clear()
        self._segment.clear()
        for item in reversed(back):
            self._wait(item, first=True)
        self._settle()

    # the planner

    @property
    def _segment_open(self) -> bool:
        return bool(self.items or self._segment)

    def _wait(self, item: Item, *, first: bool = False) -> None:
        queue = self._waiting[item.model]
        (queue.appendleft if first else queue.append)(item)
        self._scores[item.model] += item.priority

    def _turn(self) -> None:
        if self._busy or self._flagged:
            return
        self.tokens = min(MOST_TOKENS, self.tokens + TOKENS_A_TURN)
        if self.state in ("idle", "working") and self._waiting[self.believed]:
            self._claim()
        elif model := self._next():
            self._busy = True
            self.load(model)
        else:
            self.at(self.now + IDLE_TURN, self._turn)

    def _next(self) -> str | None:
        """The model that is to come now; a token is taken if the realtime model has to go."""
        wanted = [model for model, queue in self._waiting.items() if queue]
        if not wanted:
            return REALTIME if self.believed != REALTIME else None
        best = max(wanted, key=lambda model: self._scores[model])
        if best == self.believed or self.tokens < 1:
            return None
        if self.believed == REALTIME:
            if self.now - self._realtime_at < MIN_HOT:
                return None
            self.tokens -= 1
        return best

    def _claim(self) -> None:
        self._busy = True
        self._segment = self._waiting.pop(self.believed)
        self._scores.pop(self.believed, None)
        self._run_segment()

    def _run_segment(self) -> None:
        while self._segment and len(self.items) < AT_ONCE:
            self.start(self._segment.popleft())
        if self._busy and not self._segment_open and self.state in ("idle", "working"):
            self._busy = False
            self.at(self.now + TURN, self._turn)
