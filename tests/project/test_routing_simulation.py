"""The simulated fleet: its engines compute what they should, and its table says what is so."""

import math

import pytest
from msgspec.structs import replace
from routing.engine import Engine, Speed, Turn
from routing.fleet import Others
from routing.table import KEPT, PLAIN, SCENES, Rule, Scene, admitted, measured, tables
from routing.workload import BLOCK, Load, Session, Step, sessions_of
from support.paths import DOCS

SMALL = Scene(
    "small", Load(sessions=102, within=5.0, turns=8.0, result=2_400.0), Speed(), PLAIN, engines=2
)
SHORT = Load(sessions=51, within=5.0, turns=6.0)
ROOMY = Speed(cache=2_000_000)
SPEED = Speed(cache=100 * BLOCK)
CALLS, HASH = "least loaded, each call", "consistent hash"


def rule(name: str) -> Rule:
    return next(one for one in PLAIN if one.name == name)


def session(number: int, *prompts: int, output: int = 100) -> Session:
    steps = tuple(Step(prompt, output, 1.0) for prompt in prompts)
    return Session(number=number, kind=number, principal="", start=0.0, steps=steps)


def run(engine: Engine, *turns: Turn) -> float:
    """Run these turns from now to their ends, and return how long that took."""
    began, left = engine.now, len(turns)
    for turn in turns:
        engine.add(turn, began)
    while left:
        left -= len(engine.pass_event())
    return engine.now - began


def test_simulated_engine_computes_what_its_cache_has_not() -> None:
    engine, agent = Engine(SPEED), session(0, 40 * BLOCK, 50 * BLOCK)
    first, second = Turn(agent, 0, 0.0), Turn(agent, 1, 0.0)
    steps = 40 * BLOCK / SPEED.chunk
    prompt = steps * (SPEED.step + SPEED.chunk / SPEED.prefill)
    assert run(engine, first) == pytest.approx(prompt + 100 * (SPEED.step + SPEED.sequence))
    run(engine, second)
    assert (first.cached, second.cached) == (0, 40 * BLOCK)
    assert engine.cached_tokens / engine.prompt_tokens == pytest.approx(40 / 90)


def test_simulated_engine_decodes_its_turns_together() -> None:
    engine = Engine(SPEED)
    turns = [Turn(session(number, 2), 0, 0.0) for number in range(4)]
    together = run(engine, *turns)
    assert 100 * (SPEED.step + 4 * SPEED.sequence) < together < 200 * SPEED.step


def test_simulated_cache_drops_the_longest_unused_blocks_from_their_ends() -> None:
    engine = Engine(SPEED)
    one, two = session(0, 60 * BLOCK, 70 * BLOCK), session(1, 70 * BLOCK)
    run(engine, Turn(one, 0, 0.0))
    run(engine, Turn(two, 0, 0.0))
    again = Turn(one, 1, 0.0)
    run(engine, again)
    assert again.cached == (100 - 71) * BLOCK, "of the first one's 60, the last ones are gone"


def test_simulated_engine_lets_turns_wait_that_do_not_fit() -> None:
    engine = Engine(SPEED)
    for number in range(2):
        engine.add(Turn(session(number, 60 * BLOCK), 0, 0.0), 0.0)
    assert (engine.running, engine.waiting) == (1, 1)
    assert 0.6 < engine.usage < 0.62
    while engine.next_event() < math.inf:
        engine.pass_event()
    assert (engine.running, engine.waiting, engine.usage) == (0, 0, 0.0)


def test_simulation_is_the_same_for_the_same_seed() -> None:
    load = Load(sessions=30, turns=4.0)
    assert sessions_of(load, 3) == sessions_of(load, 3) != sessions_of(load, 4)
    scene = Scene("tiny", load, Speed(cache=100_000), PLAIN, engines=2)
    assert measured(scene, PLAIN[0]) == measured(scene, PLAIN[0])


def test_admission_keeps_caches_warm_where_too_many_sessions_take_turns() -> None:
    calls, hashed = (measured(SMALL, rule(name)) for name in (CALLS, HASH))
    right = measured(SMALL, admitted(24))
    assert calls.hits < hashed.hits < right.hits
    assert right.mean < 0.8 * hashed.mean < 0.8 * calls.mean
    assert right.p99 < hashed.p99


def test_admission_of_too_few_leaves_engines_idle() -> None:
    roomy = Scene("roomy", SHORT, ROOMY, PLAIN, engines=1)
    hashed, few = measured(roomy, rule(HASH)), measured(roomy, admitted(16))
    assert hashed.mean < 0.8 * few.mean


def test_prefix_tree_finds_the_sessions_that_nobody_names() -> None:
    scene = Scene("unnamed", replace(SHORT, named=False), ROOMY, PLAIN, engines=3)
    hashed, tree = (measured(scene, rule(name)) for name in (HASH, "prefix tree"))
    assert hashed.hits < tree.hits
    assert tree.mean < 0.95 * hashed.mean


def test_load_as_engines_tell_it_counts_where_others_use_them() -> None:
    others = Others(engines=1, every=0.9)
    scene = Scene("others", SHORT, ROOMY, PLAIN, engines=3, others=others)
    loaded, kept = measured(scene, rule("least loaded, each session")), measured(scene, KEPT)
    assert kept.mean < 0.95 * loaded.mean


@pytest.mark.slow
def test_manual_has_the_tables_of_the_simulation() -> None:
    assert tables(SCENES) in (DOCS / "warm-caches.md").read_text()
