"""The rules that determine which model a runtime has."""

from gateway_plugins.runtime.options import Rules
from gateway_plugins.runtime.policy.departure import Departure
from gateway_plugins.runtime.policy.saved import Memory, Saved
from gateway_plugins.runtime.policy.situation import Situation
from gateway_plugins.runtime.policy.starvation import Deadlines
from gateway_plugins.runtime.policy.view import Decision, View

SAVED_EACH = 30.0
"""Seconds by which the saved time of the latest realtime call may be too early."""


class Policy:
    """Decides for one runtime; `realtime` is its realtime model.

    `saved` is what an earlier process has kept. `now` and `unix` are the monotonic clock and the
    Unix time of the same moment. Nothing here reads a clock.
    """

    def __init__(
        self,
        rules: Rules,
        realtime: str | None,
        saved: Saved | None = None,
        *,
        now: float,
        unix: float,
    ) -> None:
        self._rules = rules
        self._realtime = realtime
        self._memory = Memory(rules, saved, now, unix)
        self._saved_call = self._memory.realtime_at

    def tokens(self, now: float) -> float:
        """How many tokens are left, with fractions."""
        return self._memory.bucket.level(now)

    def saved(self, now: float, unix: float) -> Saved:
        """What is to be kept: after each switch, and whenever a call is `unsaved`."""
        self._saved_call = self._memory.realtime_at
        return self._memory.saved(now, unix)

    @property
    def unsaved(self) -> bool:
        """Whether a realtime call came so long after the latest that was saved that it matters."""
        latest, before = self._memory.realtime_at, self._saved_call
        return latest is not None and (before is None or latest - before >= SAVED_EACH)

    def decide(self, view: View) -> Decision:
        """Return the model that the runtime should have. Does not count as a switch."""
        here = Situation(self._rules, self._realtime, view)
        self._hear(here)
        if view.phase == "hot":
            self._memory.pace.note(here)
            return self._hot(here)
        if view.phase in ("loading", "draining"):
            return self._coming(here)
        return self._empty(here)

    def switched(self, view: View, decision: Decision) -> None:
        """Say that the switch of a decision begins; to be told once for each that has a cause."""
        here = Situation(self._rules, self._realtime, view)
        if view.phase != "draining":  # one that is called off may still cost nothing
            self._memory.paid = self._costs(here, decision)
            if self._memory.paid:
                self._memory.bucket.pay(view.now)
        self._end_turn(here)
        self._memory.called = decision.cause == "realtime"
        if self._memory.called:
            self._memory.recalled_at = view.now

    def called_off(self, now: float) -> None:
        """Say that the model which was to make room has stayed: its eviction cost nothing."""
        if self._memory.paid:
            self._memory.bucket.give_back(now)
            self._memory.paid = False

    def _hear(self, here: Situation) -> None:
        at = here.of(here.realtime).realtime_at
        if at is not None:
            self._memory.realtime_at = max(at, self._memory.realtime_at or at)

    def _costs(self, here: Situation, decision: Decision) -> bool:
        is_batch = decision.cause == "batch" and decision.model is not None
        return is_batch and Departure(here, self._memory).costs(decision.model or "")

    def _end_turn(self, here: Situation) -> None:
        left, pace = self._memory.left, self._memory.pace.of
        if here.view.phase == "hot" and here.present and here.age >= self._rules.min_batch:
            left[here.present] = here.now
        for known in (left, pace):
            for name in known.keys() - here.view.demands.keys():
                del known[name]

    def _empty(self, here: Situation) -> Decision:
        """Nothing is there: what realtime calls wait for, the realtime model, or what else may."""
        if held := here.held():
            return Decision(held, "realtime", f"{_calls(here, held)}, and no model is there")
        if here.realtime and here.may_start(here.realtime):
            return Decision(here.realtime, "return", _why_empty(here))
        if queued := here.queued():
            return Decision(queued[0], "batch", f"{_items(here, queued[0])}, and no model is there")
        return Decision(here.view.model, None, "no model that may start is wanted")

    def _coming(self, here: Situation) -> Decision:
        """A model is on its way: it comes, unless realtime calls wait for another one only."""
        if here.view.phase == "draining" and not here.may_start(here.present or ""):
            return self._empty(here)
        held = here.held()
        if held and not here.here.held and not self._must_come(here, held):
            reason = f"{_calls(here, held)}, and none for {here.present}, which is not there yet"
            return Decision(held, "realtime", reason)
        return self._back(here) or _stay(here, f"{here.present} is on its way")

    def _must_come(self, here: Situation, held: str) -> bool:
        """Whether items would be late if the model that is on its way was turned back."""
        if here.of(held).urgent or not here.view.began_for_batch or not here.here.queued:
            return False
        deadlines = Deadlines(here, self._memory)
        return deadlines.spare <= deadlines.back

    def _hot(self, here: Situation) -> Decision:
        return (
            self._starving(here)
            or self._called(here)
            or self._queued(here)
            or self._back(here)
            or _stay(here, f"{here.present} is wanted, or nothing else is")
        )

    def _starving(self, here: Situation) -> Decision | None:
        """Items that have waited for long go before realtime calls, but not twice in a row."""
        held = here.held()
        if here.view.began_for_batch and held:
            return None
        would_go = held is not None and self._is_idle(here, held)
        if here.age < self._least_stay(here) and not would_go:
            return None
        name = Deadlines(here, self._memory).starving()
        if name is None:
            return None
        return Decision(name, "starving", f"{_items(here, name)}, which is close to the maximum")

    def _least_stay(self, here: Situation) -> float:
        if self._memory.called:
            return self._rules.cooldown
        return self._rules.min_batch if here.has_items else 0.0

    def _called(self, here: Situation) -> Decision | None:
        """Realtime calls wait for another model: it comes once the present one had its time."""
        held = here.held()
        if held is None:
            return None
        if here.view.began_for_batch and here.of(held).urgent:
            return Decision(held, "realtime", f"{_calls(here, held)}, and their key is urgent")
        if self._is_idle(here, held):
            return Decision(held, "realtime", f"{_calls(here, held)}; {here.present} has no work")
        turn = self._rules.min_batch * self._turns(here)
        if here.age >= turn:
            reason = f"{_calls(here, held)}; {here.present} was there for {here.age:.0f} s"
            return Decision(held, "realtime", reason)
        return _stay(here, f"{_calls(here, held)}, {turn - here.age:.0f} s of min_batch are left")

    def _turns(self, here: Situation) -> int:
        """How many times `min_batch` items may work while calls wait."""
        late = here.view.began_for_batch and Deadlines(here, self._memory).cannot_pause()
        return 2 if late else 1

    def _is_idle(self, here: Situation, held: str) -> bool:
        """Whether the present model has no work, and got no call in the time of two loads."""
        at = here.here.realtime_at
        silent = at is None or here.now - at >= here.of(held).load_time + here.here.load_time
        return silent and not here.has_items and not here.has_calls

    def _queued(self, here: Situation) -> Decision | None:
        """Batch items wait for another model: it comes if the present one may go."""
        queued = here.queued()
        if not queued:
            return None
        name = Deadlines(here, self._memory).pressing() or queued[0]
        if here.has_items and not self._outranked(here, name):
            return _stay(here, f"{here.present} has items of its own")
        obstacle = Departure(here, self._memory).obstacle(name)
        if obstacle:
            return _stay(here, f"{_items(here, name)}: {obstacle}")
        return Decision(name, "batch", f"{_items(here, name)}; {here.present} may go")

    def _outranked(self, here: Situation, other: str) -> bool:
        """Whether the items of another model come first by a whole step, after a turn of this one.

        Items that run while none wait are let finish.
        """
        if not here.here.queued or here.age < self._rules.min_batch:
            return False
        return here.rank(other) >= here.rank(here.present or "") + 1

    def _back(self, here: Situation) -> Decision | None:
        name = here.realtime
        if not name or name == here.present or here.wanted or not here.may_start(name):
            return None
        return Decision(name, "return", f"{here.present} is not wanted any more")


def _stay(here: Situation, reason: str) -> Decision:
    return Decision(here.view.model, None, reason)


def _why_empty(here: Situation) -> str:
    return f"{here.view.model} failed" if here.view.phase == "failed" else "no model is there"


def _calls(here: Situation, name: str) -> str:
    count = here.of(name).held
    noun = "realtime call waits" if count == 1 else "realtime calls wait"
    return f"{count} {noun} for {name}, for {here.held_for(name):.0f} s"


def _items(here: Situation, name: str) -> str:
    count = here.of(name).queued
    noun = "batch item waits" if count == 1 else "batch items wait"
    return f"{count} {noun} for {name}, for {here.waited(name):.0f} s"
