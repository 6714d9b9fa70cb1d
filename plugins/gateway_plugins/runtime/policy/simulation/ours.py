"""Our policy at the box: calls are held, items are claimed as they fit."""

from collections import defaultdict

from gateway_plugins.runtime.options import Rules
from gateway_plugins.runtime.policy.arrivals import Arrivals
from gateway_plugins.runtime.policy.policy import Policy
from gateway_plugins.runtime.policy.simulation.box import AT_ONCE, Box
from gateway_plugins.runtime.policy.simulation.items import Items
from gateway_plugins.runtime.policy.simulation.load import LOADS, REALTIME, Call, Item, Load
from gateway_plugins.runtime.policy.view import Demand, Phase, View

TICK = 5.0
HOLD = 240.0
RETRY_AFTER = 60.0
BARRED = 86_400.0


class Ours(Box):
    """A caller who was held for `HOLD` comes back `RETRY_AFTER` later."""

    def __init__(self, load: Load, rules: Rules | None = None) -> None:
        super().__init__(load)
        self.rules = rules or Rules()
        self.policy = Policy(self.rules, REALTIME, now=0, unix=0)
        self.arrivals = Arrivals()
        self.causes: defaultdict[str, int] = defaultdict(int)
        self._held: dict[Call, float] = {}
        self._queues = {name: Items(self.rules.age_step) for name in LOADS}
        self._barred: dict[str, float] = {}
        self._target: str | None = None
        self._for_batch = False
        self._drains = 0

    def begin(self) -> None:
        self._consider()
        self._tick()

    def came(self, call: Call) -> None:
        self.arrivals.note(self.now)
        if self.serves_calls:
            self.serve(call)
            return
        self._held[call] = self.now
        self.at(self.now + HOLD, lambda: self._give_up(call))
        self._consider()

    def submitted(self, item: Item) -> None:
        self._queues[item.model].push(item)
        self._go_on()

    def loaded(self) -> None:
        self._go_on()

    def failed(self, model: str) -> None:
        self._barred[model] = self.now + BARRED
        queue = self._queues[model]
        while queue:
            item = queue.pop()
            self.count(item, -1)
            self.lose(item)
        self._consider("failed", model)

    def freed(self) -> None:
        if self.state == "draining":
            self._drained()
        elif self._claim() == 0 or self._held:
            self._consider()

    def _give_up(self, call: Call) -> None:
        if self._held.pop(call, None) is not None:
            self.record.refused += 1
            self.at(self.now + RETRY_AFTER, lambda: self.came(call))

    def _tick(self) -> None:
        if self._held or self.model != REALTIME or any(self._queues.values()):
            self._consider()
        self.at(self.now + TICK, self._tick)

    def _go_on(self) -> None:
        """Give the engine what it has room for, then ask the policy."""
        if self.serves_calls:
            for call in [*self._held]:
                del self._held[call]
                self.serve(call)
        if self.state in ("idle", "working"):
            self._claim()
        self._consider()

    def _claim(self) -> int:
        """Start the items that the engine has room for; return how many it has then."""
        queue = self._queues[self.model or ""]
        while queue and len(self.items) + len(self.calls) < AT_ONCE:
            self.start(queue.pop())
        return len(self.items)

    def _consider(self, phase: Phase | None = None, model: str | None = None) -> None:
        view = self._view(phase or self._phase, model or self._target or self.model)
        decision = self.policy.decide(view)
        if decision.cause is None or decision.model is None:
            return
        self.policy.switched(view, decision)
        self.causes[decision.cause] += 1
        self._for_batch = decision.cause in ("batch", "starving")
        self._target = decision.model
        if self.state in ("idle", "working"):
            self._drain()
        elif self.state != "draining":
            self._load()

    @property
    def _phase(self) -> Phase:
        match self.state:
            case "idle" | "working":
                return "hot"
            case "empty":
                return "idle"
            case "loading" | "draining" as state:
                return state

    def _drain(self) -> None:
        self.drain()
        self._drains += 1
        mine = self._drains
        self.at(self.now + self.rules.drain_batch, lambda: self._cut(mine))
        self._drained()

    def _cut(self, drain: int) -> None:
        """Items that are not finished wait again."""
        if self.state != "draining" or drain != self._drains:
            return
        for item in self.items:
            self.count(item, 1)
            self._queues[item.model].push(item)
        self.items.clear()
        self._drained()

    def _drained(self) -> None:
        """No simulated call takes as long as `drain_realtime` does not allow."""
        if not self.calls and not self.items:
            self._load()

    def _load(self) -> None:
        if self._target is not None:
            self.load(self._target)
            self._target = None

    def _view(self, phase: Phase, model: str | None) -> View:
        names = {*LOADS}
        return View(
            now=self.now,
            phase=phase,
            model=model,
            since=self.since,
            began_for_batch=self._for_batch,
            demands={name: self._demand(name) for name in names},
        )

    def _demand(self, name: str) -> Demand:
        queue = self._queues[name]
        demand = Demand(
            queued=len(queue),
            running=len(self.items) if name == self.model else 0,
            queued_since=queue.since,
            priority=queue.priority,
            barred_until=self._barred.get(name, 0.0),
            load_time=LOADS[name],
        )
        if name == REALTIME:
            demand.held = len(self._held)
            demand.held_since = min(self._held.values(), default=None)
            demand.in_flight = len(self.calls)
            demand.realtime_at = self.arrivals.latest
            demand.arrivals = self.arrivals.rate(self.now)
        return demand
