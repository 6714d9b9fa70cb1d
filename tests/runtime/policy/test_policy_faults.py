"""The numbered faults of the orchestrator that is replaced, as far as they are the policy's."""

import pytest
from gateway_plugins.runtime.options import Rules
from gateway_plugins.runtime.policy.saved import Saved
from gateway_plugins.runtime.policy.view import Demand, Phase
from runtime.policy.views import CHAT, DAY, UNIX, calls, items, policy, view


def spent(now: float = 0.0) -> Saved:
    return Saved(at=UNIX + now, tokens=0.0)


def test_fault_3_4_ten_thousand_items_for_one_model_leave_another_its_turn() -> None:
    rules = Rules(max_wait=3_600)
    one = policy(rules)
    many, single = items(10_000, since=0, priority=100), items(1, since=10, priority=-100)
    for now in range(200, 3_600):
        state = view(now, "many", since=100, for_batch=True, many=many, single=single)
        decision = one.decide(state)
        if decision.cause:
            assert (decision.model, decision.cause) == ("single", "starving")
            assert now + single.load_time <= 10 + rules.max_wait
            assert now > rules.max_wait / 2
            return
    pytest.fail("the item was left to starve")


def test_fault_3_4_a_model_that_had_its_turn_does_not_come_back_at_once() -> None:
    one = policy()
    late = view(3_500, "many", since=100, for_batch=True, many=items(9_000), single=items())
    one.switched(late, one.decide(late))
    after = view(4_000, "single", since=3_560, for_batch=True, many=items(9_000), single=items())
    assert one.decide(after).cause is None
    again = view(3_500 + 3_600, "single", since=3_560, for_batch=True, many=items(), single=items())
    assert one.decide(again).model == "many"


def test_fault_5_1_tokens_come_back_by_the_clock_whatever_is_decided() -> None:
    """Neither the number of decisions nor the model that is there has a say."""
    rules = Rules(tokens=3, refill=1_800)
    asked, unasked = policy(rules, spent()), policy(rules, spent())
    for now in range(0, 1_800, 2):
        asked.decide(view(now))
        asked.decide(view(now, "other", for_batch=True, other=items()))
    for one in (asked, unasked):
        assert one.tokens(1_799) < 1
        assert one.tokens(1_800) == pytest.approx(1)
        assert one.tokens(DAY) == 3


def test_fault_5_2_tokens_and_the_latest_call_outlive_a_restart() -> None:
    before = policy()
    state = view(1_000, chat=Demand(realtime_at=390), eval=items(since=990))
    decision = before.decide(state)
    assert decision.cause == "batch"
    before.switched(state, decision)
    before.decide(view(1_100, "eval", chat=Demand(realtime_at=1_090), for_batch=True))
    kept = before.saved(1_100, UNIX + 1_100)

    after = policy(saved=kept, now=1_110)
    assert after.tokens(1_110) == pytest.approx(2 + 110 / 1_800)
    assert after.decide(view(1_120, eval=items(since=1_115))).cause is None
    assert after.decide(view(1_090 + 601, eval=items(since=1_690))).cause == "batch"


def test_fault_5_2_a_call_is_to_be_saved_but_not_each_of_many() -> None:
    one, unsaved = policy(), []
    for now in range(0, 100, 10):
        one.decide(view(now, chat=Demand(realtime_at=now)))
        if one.unsaved:
            unsaved.append(now)
            assert one.saved(now, UNIX + now).realtime_at == UNIX + now
    assert unsaved == [0, 30, 60, 90]


def test_fault_5_2_the_cooldown_outlives_a_restart() -> None:
    rules = Rules(min_hot=10, cooldown=120)
    before = policy(rules)
    state = view(1_000, "eval", since=100, for_batch=True, chat=calls(since=995), eval=items())
    before.switched(state, before.decide(state))
    after = policy(rules, before.saved(1_001, UNIX + 1_001), now=1_001)
    assert "cooldown" in after.decide(view(1_100, since=1_060, eval=items(since=1_050))).reason
    assert after.decide(view(1_121, since=1_060, eval=items(since=1_100))).cause == "batch"


def test_fault_5_2_a_clock_that_was_set_back_does_not_freeze_the_bucket() -> None:
    kept = Saved(at=UNIX + DAY, tokens=0, realtime_at=UNIX + DAY, left={"eval": UNIX + DAY})
    one = policy(saved=kept)
    assert one.tokens(1_800) == pytest.approx(1)
    assert one.decide(view(1_801, eval=items(since=1_800))).cause == "batch"


def test_fault_5_3_a_stray_call_does_not_end_a_turn_before_min_batch() -> None:
    one = policy(Rules(min_batch=120))
    early = view(119, "eval", for_batch=True, chat=calls(since=10), eval=items(5))
    assert one.decide(early).cause is None
    assert "min_batch" in one.decide(early).reason
    late = view(120, "eval", for_batch=True, chat=calls(since=10), eval=items(5))
    assert (one.decide(late).model, one.decide(late).cause) == (CHAT, "realtime")


def test_fault_5_3_a_call_with_an_urgent_key_ends_a_turn_at_once() -> None:
    state = view(1, "eval", for_batch=True, chat=calls(urgent=True), eval=items(5))
    assert policy().decide(state).model == CHAT


def test_fault_5_3_a_turn_without_work_ends_at_once() -> None:
    state = view(1, "eval", for_batch=True, chat=calls())
    assert policy().decide(state).model == CHAT


def test_fault_5_3_expected_calls_keep_the_realtime_model() -> None:
    """The configured numbers were never used in a decision."""
    busy = Demand(realtime_at=0, arrivals=0.01, load_time=60)
    assert "expected" in policy().decide(view(700, chat=busy, eval=items(since=600))).reason
    quiet = Demand(realtime_at=0, arrivals=0.001, load_time=60)
    assert policy().decide(view(700, chat=quiet, eval=items(since=600))).cause == "batch"


def test_fault_5_3_expected_calls_favour_the_model_that_loads_faster() -> None:
    wanted = {"slow": items(since=1, load=600), "fast": items(since=2, load=30)}
    chat = Demand(arrivals=0.001)
    assert policy().decide(view(10, chat=chat, wanted=wanted)).model == "fast"
    assert policy().decide(view(10, wanted=wanted)).model == "slow"


@pytest.mark.parametrize("since", [0.0, 50.0])
def test_fault_5_3_two_callers_of_two_models_do_not_make_it_thrash(since: float) -> None:
    one = policy(Rules(min_batch=120))
    state = view(60, "other", since=since, other=Demand(in_flight=1), chat=calls(since=55))
    assert one.decide(state).cause is None
    later = view(180, "other", since=since, other=Demand(in_flight=1), chat=calls(since=55))
    assert one.decide(later).model == CHAT


@pytest.mark.parametrize("queued", [0, 10])
def test_fault_5_6_a_failed_model_leads_back_to_the_realtime_model_at_once(queued: int) -> None:
    failed = Demand(queued=queued, queued_since=0, barred_until=1_000)
    state = view(10, "broken", phase="failed", for_batch=True, broken=failed, other=items())
    decision = policy().decide(state)
    assert (decision.model, decision.cause) == (CHAT, "return")
    assert "broken failed" in decision.reason


def test_fault_5_6_a_barred_model_is_passed_over_until_its_time() -> None:
    barred = Demand(queued=9, queued_since=0, priority=100, barred_until=1_000)
    one = policy()
    assert one.decide(view(999, broken=barred, other=items())).model == "other"
    assert one.decide(view(999, broken=barred)).cause is None
    assert one.decide(view(1_000, broken=barred)).model == "broken"


@pytest.mark.parametrize("phase", ["idle", "failed"])
def test_fault_5_6_nothing_starts_while_the_realtime_model_is_barred_alone(phase: Phase) -> None:
    barred = Demand(held=3, held_since=0, barred_until=100)
    one = policy()
    assert one.decide(view(99, CHAT, phase=phase, chat=barred)).cause is None
    assert one.decide(view(100, CHAT, phase=phase, chat=barred)).cause == "realtime"


def test_fault_5_11_batch_items_in_any_order_are_collated_by_model() -> None:
    """Both models have items all the time; each turn is as long as its items last."""
    one = policy()
    for now in range(0, 3_000, 10):
        state = view(now, "a", for_batch=True, a=items(50, since=now), b=items(50, since=now))
        assert one.decide(state).cause is None


def test_fault_5_11_items_that_run_are_let_finish_before_another_model_comes() -> None:
    running = Demand(running=3)
    state = view(2_000, "a", for_batch=True, a=running, b=items(50, since=1_000, priority=9))
    assert policy().decide(state).cause is None
