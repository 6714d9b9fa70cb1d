"""What holds for the policy whatever comes."""

from gateway_plugins.runtime.options import Rules
from gateway_plugins.runtime.policy.bucket import Bucket
from gateway_plugins.runtime.policy.situation import Situation
from hypothesis import given
from hypothesis import strategies as st
from runtime.policy.views import CHAT
from runtime.policy.world import LOADS, STEP, Event, World

RULES = Rules()
HOURS = 3
END = HOURS * 3_600.0
SLOWEST = max(LOADS.values())

MODELS = st.sampled_from(sorted(LOADS))
MOMENTS = st.floats(0, END)
ITEMS = st.builds(Event, MOMENTS, st.just("item"), MODELS)
CALLS = st.builds(Event, MOMENTS, st.just("call"), MODELS)


@st.composite
def streams(draw: st.DrawFn) -> list[Event]:
    """Calls for one model, again and again for some time."""
    model, start = draw(MODELS), draw(MOMENTS)
    pause, count = draw(st.sampled_from([10.0, 30.0, 100.0, 300.0])), draw(st.integers(1, 300))
    return [Event(start + pause * number, "call", model) for number in range(count)]


EVENTS = st.builds(
    lambda items, calls, many: [*items, *calls, *(call for one in many for call in one)],
    st.lists(ITEMS, max_size=20),
    st.lists(CALLS, max_size=20),
    st.lists(streams(), max_size=4),
)


def world_of(events: list[Event], until: float = END) -> World:
    world = World(RULES)
    world.run(events, until)
    return world


@given(
    st.lists(st.tuples(st.floats(-10, 1e4), st.booleans()), max_size=50),
    st.floats(1, 10),
    st.floats(0.1, 1e4),
    st.floats(-5, 20),
)
def test_tokens_are_never_below_zero_nor_above_the_maximum(
    steps: list[tuple[float, bool]], most: float, refill: float, tokens: float
) -> None:
    """Also if time runs backwards."""
    bucket, now = Bucket(most, refill, tokens, 0.0), 0.0
    for elapsed, pays in steps:
        now += elapsed
        before = bucket.level(now)
        if pays:
            bucket.pay(now)
            assert bucket.level(now) <= max(0.0, before - 1) + 1e-9
        else:
            bucket.give_back(now)
            assert bucket.level(now) >= min(before, most)
        assert 0 <= bucket.level(now) <= most


@given(EVENTS)
def test_no_item_waits_longer_than_max_wait_and_a_turn(events: list[Event]) -> None:
    most = RULES.max_wait + SLOWEST + RULES.min_batch + 2 * STEP
    assert world_of(events).longest("item") <= most


@given(EVENTS)
def test_a_held_call_is_served_within_a_bound(events: list[Event]) -> None:
    """Each other model may have a turn for its calls, and one for starving items before that."""
    turn = SLOWEST + max(RULES.min_batch, RULES.cooldown) + 2 * STEP
    assert world_of(events).longest("call") <= 2 * len(LOADS) * turn


@given(EVENTS)
def test_each_switch_has_its_cause(events: list[Event]) -> None:
    for view, decision in world_of(events).switches:
        wanted = view.demands[decision.model or ""]
        match decision.cause:
            case "realtime":
                assert wanted.held
            case "batch" | "starving":
                assert wanted.queued
            case "return":
                assert decision.model == CHAT
                assert view.model is None or not Situation(RULES, CHAT, view).wanted
        assert decision.model != view.model
        assert decision.reason


@given(EVENTS)
def test_a_world_without_wishes_comes_to_rest_at_the_realtime_model(events: list[Event]) -> None:
    early = [one for one in events if one.at < 3_600]
    world = world_of(early, 4 * 3_600)
    assert world.model == CHAT
    assert not world.waiting
    assert world.switches[-1].view.now < 3 * 3_600


@given(EVENTS)
def test_the_realtime_model_gives_way_no_more_often_than_tokens_and_turns_allow(
    events: list[Event],
) -> None:
    world = world_of(events)
    assert all(0 <= one <= RULES.tokens for one in world.tokens)
    assert world.paid <= RULES.tokens + END / RULES.refill
    left = [decision.cause for view, decision in world.switches if view.model == CHAT]
    assert left.count("starving") <= len(LOADS) * HOURS


@given(st.sampled_from([10.0, 20.0]), st.integers(2, 3))
def test_fault_5_11_calls_in_the_order_a_b_a_b_do_not_thrash(pause: float, models: int) -> None:
    names = sorted(LOADS)[:models]
    count = int(END / pause)
    events = [Event(pause * one, "call", names[one % models]) for one in range(count)]
    world = world_of(events)
    turns = END / (RULES.min_batch + min(LOADS.values()))
    until_their_rate_is_known = 10
    assert len(world.switches) <= turns + until_their_rate_is_known
    assert world.longest("call") <= models * (SLOWEST + RULES.min_batch + 2 * STEP)
