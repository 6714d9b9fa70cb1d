"""The gateway's own rules, as the simulated fleet asks them: which worker gets a turn, and when."""

from collections.abc import Callable, Sequence
from typing import Protocol

from gateway_plugins.load_aware.loads import Loads
from gateway_plugins.load_aware.options import Options
from gateway_plugins.load_aware.reading import EngineLoad
from gateway_plugins.prefix_tree.choice import Choice
from gateway_plugins.prefix_tree.choice import Options as PrefixOptions
from gateway_plugins.session_admission.admission import Admission
from gateway_plugins.session_admission.line import Ticket
from gateway_plugins.session_admission.places import SessionKey
from gateway_plugins.stickiness.pins import Pins
from gateway_plugins.stickiness.policies import ConsistentHash, LeastLoaded, Policy, PowerOfTwo
from gateway_plugins.stickiness.ring import key_point
from gateway_plugins.stickiness.views import Views

from gateway import Worker, Workers, config
from routing.engine import Engine, Turn

Start = Callable[[Turn, Worker], None]
"""Sends a turn to a worker."""


class Site:
    """What a rule may look at: the workers, their engines, and the time."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self.now = 0.0
        self.registry = Workers(
            config.Config(
                workers=tuple(
                    config.Worker(url=f"http://gpu-{place}:8000", worker_id=f"gpu-{place}")
                    for place in range(len(engines))
                )
            )
        )
        self.engines = dict(zip(self.registry.all, engines, strict=True))

    def clock(self) -> float:
        return self.now


class Timed:
    """Has nothing to do at any time."""

    def next_time(self) -> float | None:
        """Return when `pass_time` has to be called; None: need not be."""
        return None

    def pass_time(self) -> None:
        """Do what is due."""


class Chooser(Protocol):
    """A rule that chooses one of some workers."""

    def pick(self, turn: Turn, workers: Sequence[Worker]) -> Worker: ...
    def next_time(self) -> float | None: ...
    def pass_time(self) -> None: ...


class Router(Protocol):
    """Sends each turn to a worker, at once or later."""

    def arrive(self, turn: Turn) -> None: ...
    def end(self, turn: Turn) -> None: ...
    def next_time(self) -> float | None: ...
    def pass_time(self) -> None: ...


class Sticky(Timed):
    """One of the policies of `stickiness`; without one, the core's choice: the least loaded.

    A session that is not named has the key of how its prompt begins: that of its kind of agent.
    """

    def __init__(self, site: Site, policy: Policy | None, *, named: bool) -> None:
        self._site = site
        self._views = Views(site.registry)
        self._policy = policy
        self._named = named

    def pick(self, turn: Turn, workers: Sequence[Worker]) -> Worker:
        found = None
        if self._policy is not None:
            found = self._policy.pick(self._views.of(None), self._point(turn), workers)
        return self._site.registry.least_loaded(workers) if found is None else found

    def _point(self, turn: Turn) -> int:
        if self._named:
            return key_point("session", f"s{turn.session.number}")
        return key_point("prefix", f"You are agent {turn.session.kind}.")


class LoadAware(Timed):
    """`load_aware`: asks all engines once a second."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._loads = Loads(Options())
        self._due = 0.0

    def pick(self, turn: Turn, workers: Sequence[Worker]) -> Worker:
        return self._loads.pick(workers, self._site.now)

    def next_time(self) -> float | None:
        return self._due

    def pass_time(self) -> None:
        if self._due > self._site.now:
            return
        for worker, engine in self._site.engines.items():
            load = EngineLoad(engine.running, engine.waiting, engine.usage)
            self._loads.note(worker, load, self._site.now)
        self._due = self._site.now + self._loads.options.interval


class ByPrefix(Timed):
    """`prefix_tree`, whose blocks are those of the simulated caches."""

    def __init__(self) -> None:
        self._choice = Choice(PrefixOptions())

    def pick(self, turn: Turn, workers: Sequence[Worker]) -> Worker:
        return self._choice.pick(workers, turn.session.blocks(turn.step.prompt))


class AtOnce:
    """Sends each turn at once."""

    def __init__(self, site: Site, chooser: Chooser, start: Start) -> None:
        self._site = site
        self._chooser = chooser
        self._start = start

    def arrive(self, turn: Turn) -> None:
        self._start(turn, self._chooser.pick(turn, self._site.registry.fit))

    def end(self, turn: Turn) -> None:
        pass

    def next_time(self) -> float | None:
        return self._chooser.next_time()

    def pass_time(self) -> None:
        self._chooser.pass_time()


class Admitted:
    """`session_admission`: at most `most` hot sessions a worker. `told`: it learns of their end."""

    def __init__(
        self, site: Site, chooser: Chooser, start: Start, most: int, ttl: float, *, told: bool
    ) -> None:
        self._site = site
        self._chooser = chooser
        self._start = start
        self._told = told
        self._rules = Admission(lambda _: most, ttl)
        self._ids = [worker.id for worker in site.registry.all]
        self._by_id = {worker.id: worker for worker in site.registry.all}
        self._tickets: dict[Turn, Ticket] = {}

    def arrive(self, turn: Turn) -> None:
        key = SessionKey(turn.session.principal, str(turn.session.number))
        ticket = self._tickets[turn] = self._rules.ticket(key)
        found = self._rules.hot_at(ticket, self._ids, self._site.now)
        free = self._rules.free(self._ids) if found is None else ()
        if found is None and not free:
            ticket.wake = lambda: self._go(turn, ticket)
            self._rules.wait(ticket, self._ids)
            return
        if free:
            picked = self._chooser.pick(turn, self._workers(free))
            self._rules.take(ticket, picked.id)
        self._go(turn, ticket)

    def end(self, turn: Turn) -> None:
        final = self._told and turn.number == len(turn.session.steps) - 1
        self._rules.end(self._tickets.pop(turn), self._site.now, final=final)

    def next_time(self) -> float | None:
        due = (self._rules.places.next_expiry(), self._chooser.next_time())
        return min((time for time in due if time is not None), default=None)

    def pass_time(self) -> None:
        self._rules.places.expire(self._site.now)
        self._chooser.pass_time()

    def _go(self, turn: Turn, ticket: Ticket) -> None:
        assert ticket.place is not None
        self._start(turn, self._by_id[ticket.place.worker])

    def _workers(self, ids: Sequence[str]) -> Sequence[Worker]:
        fit = self._site.registry.fit
        return fit if len(ids) == len(fit) else [self._by_id[one] for one in ids]


def consistent_hash(site: Site, *, named: bool) -> Chooser:
    """As `stickiness` has it by default."""
    return Sticky(site, ConsistentHash(1.25, 8), named=named)


def least_loaded_session(site: Site, *, named: bool) -> Chooser:
    return Sticky(site, LeastLoaded(Pins(1_000_000, 3600.0, site.clock)), named=named)


def least_loaded_call(site: Site, *, named: bool) -> Chooser:
    return Sticky(site, None, named=named)


def two_choices(site: Site, *, named: bool) -> Chooser:
    return Sticky(site, PowerOfTwo(), named=named)


def load_aware(site: Site, *, named: bool) -> Chooser:
    return LoadAware(site)


def prefix_tree(site: Site, *, named: bool) -> Chooser:
    return ByPrefix()
