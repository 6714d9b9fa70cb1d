"""The rules side by side, under several loads, as tables in Markdown."""

from collections.abc import Callable, Iterator, Sequence

import msgspec

from routing.engine import Speed
from routing.fleet import Fleet, Measures, Others, RouterOf
from routing.routers import (
    Admitted,
    AtOnce,
    Chooser,
    Router,
    Site,
    Start,
    consistent_hash,
    least_loaded_call,
    least_loaded_session,
    load_aware,
    prefix_tree,
    two_choices,
)
from routing.workload import Load, sessions_of

ENGINES = 12
TTL = 60.0

ChooserOf = Callable[..., Chooser]


class Rule(msgspec.Struct, frozen=True):
    """A way to send turns to workers; `hot` None: at once, else with admission.

    `told`: the gateway learns that a session is over.
    """

    name: str
    chooser: ChooserOf
    hot: int | None = None
    told: bool = True

    def router(self, load: Load) -> RouterOf:
        """Return what makes the router for a fleet under this load."""

        def made(site: Site, start: Start) -> Router:
            chooser = self.chooser(site, named=load.named)
            if self.hot is None:
                return AtOnce(site, chooser, start)
            return Admitted(site, chooser, start, self.hot, TTL, told=self.told)

        return made


class Scene(msgspec.Struct, frozen=True):
    """A load, the engines that it meets, and the rules to compare."""

    name: str
    load: Load
    speed: Speed
    rules: tuple[Rule, ...]
    engines: int = ENGINES
    others: Others = Others()


PLAIN = (
    Rule("two choices", two_choices),
    Rule("least loaded, each call", least_loaded_call),
    Rule("load-aware, each call", load_aware),
    Rule("least loaded, each session", least_loaded_session),
    Rule("prefix tree", prefix_tree),
    Rule("consistent hash", consistent_hash),
)


KEPT = Rule("load-aware, each session", load_aware, 10**6)
"""`session_admission` without a limit: a session stays where it is hot."""


def admitted(hot: int, *, told: bool = True) -> Rule:
    """Return the rule with that many hot sessions a worker."""
    name = f"admission, {hot} hot" + ("" if told else ", ends not told")
    return Rule(name, consistent_hash, hot, told)


def admitted_by_load(hot: int) -> Rule:
    """Return the same, but new sessions go where engines tell the least load."""
    return Rule(f"admission, {hot} hot, load-aware", load_aware, hot)


UNNAMED = Load(named=False)

SCENES = (
    Scene(
        "Caches that hold half of the sessions",
        Load(),
        Speed(),
        (
            *PLAIN,
            KEPT,
            *map(admitted, (8, 16, 24, 32, 40)),
            admitted_by_load(24),
            *(admitted(hot, told=False) for hot in (24, 32)),
        ),
    ),
    Scene(
        "Caches that hold all sessions",
        Load(),
        Speed(cache=2_000_000),
        (*PLAIN, KEPT, *map(admitted, (24, 32, 64)), admitted_by_load(64)),
    ),
    Scene(
        "Caches that hold all sessions, four engines that others use as well",
        Load(),
        Speed(cache=2_000_000),
        (*PLAIN, KEPT),
        others=Others(engines=4),
    ),
    Scene(
        "Callers that name no session, caches that hold all",
        UNNAMED,
        Speed(cache=2_000_000),
        (PLAIN[1], PLAIN[-1], PLAIN[-2]),
    ),
    Scene(
        "Callers that name no session, caches that hold half",
        UNNAMED,
        Speed(),
        (PLAIN[1], PLAIN[-1], PLAIN[-2]),
    ),
)


def measured(scene: Scene, rule: Rule, seed: int = 1) -> Measures:
    """Simulate the scene under one rule."""
    sessions = sessions_of(scene.load, seed)
    router = rule.router(scene.load)
    return Fleet(sessions, scene.engines, scene.speed, router, scene.others).run(seed)


def tables(scenes: Sequence[Scene] = SCENES, seed: int = 1) -> str:
    """Return a heading and a table for each scene."""
    return "\n".join("".join(_lines(scene, seed)) for scene in scenes)


def _lines(scene: Scene, seed: int) -> Iterator[str]:
    yield f"**{scene.name}**\n\n"
    yield "| rule | hit rate | session, mean | session, p99 | all done |\n"
    yield "|---|---:|---:|---:|---:|\n"
    for rule in scene.rules:
        found = measured(scene, rule, seed)
        yield (
            f"| {rule.name} | {found.hits:.1%} | {found.mean:,.0f} s | {found.p99:,.0f} s"
            f" | {found.end:,.0f} s |\n"
        )
