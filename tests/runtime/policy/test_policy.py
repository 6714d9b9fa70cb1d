"""What the policy decides, and why."""

import pytest
from gateway_plugins.runtime.options import Rules
from gateway_plugins.runtime.policy.policy import Policy
from gateway_plugins.runtime.policy.saved import Saved
from gateway_plugins.runtime.policy.starvation import MARGIN
from gateway_plugins.runtime.policy.view import Demand
from runtime.policy.views import CHAT, UNIX, calls, items, policy, view


def test_the_realtime_model_comes_first() -> None:
    decision = policy().decide(view(0, None, phase="idle", eval=items(9)))
    assert (decision.model, decision.cause) == (CHAT, "return")


def test_calls_that_wait_come_before_the_realtime_model() -> None:
    decision = policy().decide(view(5, None, phase="idle", other=calls(3)))
    assert (decision.model, decision.cause) == ("other", "realtime")
    assert decision.reason == "3 realtime calls wait for other, for 5 s, and no model is there"


def test_the_realtime_model_gives_way_after_silence_for_a_token() -> None:
    one = policy()
    early = view(700, chat=Demand(realtime_at=200), eval=items(since=690))
    assert "500 of 5" in one.decide(early).reason
    late = view(800, chat=Demand(realtime_at=200), eval=items(since=790))
    decision = one.decide(late)
    assert (decision.model, decision.cause) == ("eval", "batch")
    assert one.tokens(800) == 3
    one.switched(late, decision)
    assert one.tokens(800) == 2


def test_the_realtime_model_stays_without_a_token() -> None:
    one = policy(saved=Saved(at=UNIX, tokens=0.5))
    assert "token is left for 700 s" in one.decide(view(200, eval=items(since=200))).reason
    assert one.decide(view(900, eval=items(since=900))).cause == "batch"


def test_the_realtime_model_stays_while_calls_are_in_flight() -> None:
    state = view(5_000, chat=Demand(in_flight=1, realtime_at=0), eval=items(since=4_990))
    assert "in flight" in policy().decide(state).reason


@pytest.mark.parametrize(
    ("waited", "silence"), [(10, 595), (1_800, 150), (2_700, 135), (3_300, 60)]
)
def test_items_need_less_silence_the_longer_they_have_waited(waited: float, silence: float) -> None:
    """Soon a quarter of `min_hot`; in the end the load takes longer than the silence."""
    now, chat = 9_000.0, Demand(realtime_at=9_000 - silence + 5)
    assert policy().decide(view(now, chat=chat, eval=items(since=now - waited))).cause is None
    chat.realtime_at = now - silence - 5
    assert policy().decide(view(now, chat=chat, eval=items(since=now - waited))).cause == "batch"


def test_the_silence_is_never_shorter_than_the_load() -> None:
    """A call that comes within the load would turn it back."""
    for now, cause in ((7_999, None), (8_000, "batch")):
        state = view(now, chat=Demand(realtime_at=7_800), eval=items(since=800, load=200))
        assert policy(Rules(max_wait=10_000)).decide(state).cause == cause


def test_items_that_have_waited_for_half_of_the_time_need_no_token() -> None:
    one = policy(Rules(refill=1e6), Saved(at=UNIX, tokens=0))
    early, late = view(1_500, eval=items()), view(1_800, eval=items())
    assert "token" in one.decide(early).reason
    decision = one.decide(late)
    assert decision.cause == "batch"
    before = one.tokens(1_800)
    one.switched(late, decision)
    assert one.tokens(1_800) == before


def test_starving_items_get_their_model_so_early_that_others_have_their_turns_as_well() -> None:
    """Each turn: a drain, a load, some margin, min_batch; between two: calls' own turns."""
    rules = Rules(max_wait=3_600, min_batch=120, cooldown=120, drain_realtime=30)
    chat = Demand(in_flight=1, load_time=90)
    back, start = 90 + 120, 30 + 60 + MARGIN
    one = policy(rules)
    first = 3_600 - start
    assert one.decide(view(first - 1, chat=chat, a=items())).cause is None
    assert one.decide(view(first, chat=chat, a=items())).cause == "starving"
    second = first + 5 - back - (start + 120)
    both = {"a": items(), "b": items(since=5)}
    assert one.decide(view(second - 1, chat=chat, wanted=both)).cause is None
    assert one.decide(view(second, chat=chat, wanted=both)).model == "a"


def test_many_items_get_their_model_as_early_as_their_turns_need() -> None:
    """The pace of a turn is remembered, also over a restart, and by the models that are new."""
    one = policy(Rules(max_wait=3_600, min_batch=120, cooldown=120))
    for age, left in ((0, 900), (60, 500), (120, 300)):
        state = view(1_000 + age, "eval", since=1_000, for_batch=True, eval=items(left, since=990))
        one.decide(state)
    saved = one.saved(1_120, UNIX + 1_120)
    assert saved.pace == {"eval": 5}
    chat = Demand(in_flight=1, load_time=90)
    start, back = 30 + 60 + MARGIN, 90 + 120
    for name in ("eval", "other"):
        again = policy(saved=saved)
        latest = 3_600 - 2 * start - 240 - back
        wanted = {name: items(1_200)}
        assert again.decide(view(latest - 1, chat=chat, wanted=wanted)).cause is None
        assert again.decide(view(latest, chat=chat, wanted=wanted)).cause == "starving"


def test_without_a_max_wait_items_wait_for_a_silence_and_a_token() -> None:
    one = policy(Rules(max_wait=float("inf"), refill=1e6), Saved(at=UNIX, tokens=0))
    assert "token" in one.decide(view(1e6 - 1, eval=items())).reason
    called = Demand(realtime_at=1e6 - 590)
    assert "590 of 600 s" in one.decide(view(1e6, chat=called, eval=items())).reason


def test_a_turn_lasts_twice_as_long_if_its_items_would_be_late_otherwise() -> None:
    one = policy()
    for now, model in ((3_520, "eval"), (3_639, "eval"), (3_640, CHAT)):
        held = calls(since=3_450)
        state = view(now, "eval", since=3_400, for_batch=True, chat=held, eval=items(90))
        assert one.decide(state).model == model


def test_starving_items_leave_half_of_max_wait_in_peace() -> None:
    one = policy(Rules(max_wait=600))
    chat = Demand(in_flight=1)
    assert one.decide(view(299, chat=chat, a=items(load=1_000))).cause is None
    assert one.decide(view(300, chat=chat, a=items(load=1_000))).cause == "starving"


def test_a_turn_lasts_twice_as_long_while_its_last_items_run() -> None:
    one = policy()
    for now, model in ((239, "eval"), (240, CHAT)):
        state = view(now, "eval", for_batch=True, chat=calls(since=9), eval=Demand(running=1))
        assert one.decide(state).model == model


def test_items_for_the_realtime_model_need_no_switch() -> None:
    both = Demand(queued=10, queued_since=0, running=5)
    state = view(900, chat=both, eval=items(since=0))
    assert policy().decide(state).cause is None


def test_nothing_wanted_leads_back_to_the_realtime_model() -> None:
    decision = policy().decide(view(1, "eval", for_batch=True))
    assert (decision.model, decision.cause) == (CHAT, "return")


def test_items_that_run_keep_their_model() -> None:
    state = view(1, "eval", for_batch=True, eval=Demand(running=1))
    assert policy().decide(state).cause is None


def test_a_model_that_was_called_lately_stays_until_another_is_wanted() -> None:
    called = Demand(realtime_at=100)
    assert policy().decide(view(600, "other", other=called)).cause is None
    assert policy().decide(view(700, "other", other=called)).cause == "return"
    assert policy().decide(view(200, "other", other=called, chat=calls(since=199))).model == CHAT


def test_without_a_realtime_model_the_latest_stays() -> None:
    one = Policy(Rules(), None, now=0, unix=UNIX)
    assert one.decide(view(1, "eval", for_batch=True)).cause is None
    state = view(1, "eval", for_batch=True, other=items())
    decision = one.decide(state)
    assert decision.model == "other"
    one.switched(state, decision)
    assert one.tokens(1) == 3


def test_the_next_model_follows_without_a_token() -> None:
    one = policy(saved=Saved(at=UNIX, tokens=0))
    assert one.decide(view(1, "eval", for_batch=True, other=items())).model == "other"


def test_a_load_for_items_is_turned_back_by_a_call() -> None:
    state = view(9, "eval", phase="loading", for_batch=True, eval=items(9), chat=calls(since=8))
    decision = policy().decide(state)
    assert (decision.model, decision.cause) == (CHAT, "realtime")


def test_a_load_that_calls_wait_for_is_not_turned_back() -> None:
    state = view(9, "other", phase="loading", other=calls(since=7), chat=calls(since=8))
    assert policy().decide(state).cause is None


@pytest.mark.parametrize(("urgent", "cause"), [(False, None), (True, "realtime")])
def test_a_load_for_starving_items_is_turned_back_by_urgent_calls_only(
    urgent: bool, cause: str | None
) -> None:
    one = policy()
    late = view(3_500, chat=Demand(realtime_at=3_499), eval=items(since=0))
    decision = one.decide(late)
    assert decision.cause == "starving"
    one.switched(late, decision)
    loading = view(
        3_510,
        "eval",
        phase="loading",
        for_batch=True,
        eval=items(since=0),
        chat=calls(since=3_505, urgent=urgent),
    )
    assert one.decide(loading).cause == cause


def test_a_load_that_is_not_wanted_any_more_is_given_up() -> None:
    assert policy().decide(view(9, "eval", phase="loading", for_batch=True)).cause == "return"


def test_a_barred_model_that_was_to_come_is_given_up() -> None:
    barred = Demand(queued=1, barred_until=100)
    state = view(9, "eval", phase="draining", for_batch=True, eval=barred)
    assert policy().decide(state).model == CHAT


def test_starving_items_get_their_model_without_silence_and_without_a_token() -> None:
    one = policy(saved=Saved(at=UNIX, tokens=0))
    chat = Demand(in_flight=2, realtime_at=3_500)
    state = view(3_500, chat=chat, eval=items(500))
    decision = one.decide(state)
    assert (decision.model, decision.cause) == ("eval", "starving")
    before = one.tokens(3_500)
    one.switched(state, decision)
    assert one.tokens(3_500) == before


def test_token_of_an_eviction_that_is_called_off_is_given_back_once() -> None:
    one = policy(Rules(refill=1e9))
    state = view(1_000, eval=items(since=900))
    assert one.decide(state).cause == "batch"
    one.switched(state, one.decide(state))
    assert one.tokens(1_000) == pytest.approx(2)
    draining = view(1_001, "eval", phase="draining", for_batch=True, chat=calls(since=1_000))
    assert one.decide(draining).model == CHAT
    one.switched(draining, one.decide(draining))
    for _ in range(2):
        one.called_off(1_001)
        assert one.tokens(1_001) == pytest.approx(3)


def test_no_token_is_given_back_for_the_return_of_a_model_that_had_gone() -> None:
    one = policy(Rules(refill=1e9))
    there = view(1_000, eval=items(since=900))
    one.switched(there, one.decide(there))
    back = view(2_000, "eval", since=1_100, for_batch=True, chat=calls(since=1_999))
    assert one.decide(back).model == CHAT
    one.switched(back, one.decide(back))
    one.called_off(2_001)
    assert one.tokens(2_001) == pytest.approx(2)


def test_what_a_turn_has_left_of_many_items_comes_after_min_hot() -> None:
    one = policy(Rules(refill=1e6), Saved(at=UNIX, tokens=0))
    chat = Demand(in_flight=2, realtime_at=3_000)
    turn = view(
        3_700, "eval", since=3_560, for_batch=True, eval=items(300), chat=calls(since=3_600)
    )
    one.switched(turn, one.decide(turn))
    assert one.decide(view(4_299, since=3_760, chat=chat, eval=items(300))).cause is None
    assert one.decide(view(4_300, since=3_760, chat=chat, eval=items(300))).cause == "starving"


def test_calls_have_their_turn_between_those_of_starving_items() -> None:
    one = policy()
    waiting = {"a": items(9), "b": items(9)}
    state = view(4_000, "a", since=3_500, for_batch=True, chat=calls(since=3_900), wanted=waiting)
    decision = one.decide(state)
    assert decision.model == CHAT
    one.switched(state, decision)
    chat = Demand(in_flight=1, realtime_at=4_060)
    assert one.decide(view(4_100, since=4_060, chat=chat, wanted=waiting)).cause is None
    assert one.decide(view(4_180, since=4_060, chat=chat, wanted=waiting)).model == "b"


def test_a_higher_priority_takes_over_after_a_turn() -> None:
    one = policy()
    for now, cause in ((119, None), (120, "batch")):
        state = view(now, "a", for_batch=True, a=items(99), b=items(priority=5))
        assert one.decide(state).cause == cause


def test_age_raises_the_rank_of_items() -> None:
    one = policy(Rules(age_step=300))
    old, new = items(since=0, priority=0), items(since=1_600, priority=5)
    assert one.decide(view(1_610, old=old, new=new)).model == "old"
    assert one.decide(view(1_610, old=old, new=items(since=1_600, priority=7))).model == "new"


def test_of_several_called_models_the_longest_awaited_comes_first() -> None:
    waiting = {"a": calls(since=5), "b": calls(since=4)}
    assert policy().decide(view(9, wanted=waiting)).model == "b"
    waiting["a"] = calls(since=5, urgent=True)
    assert policy().decide(view(9, wanted=waiting)).model == "a"


def test_a_model_that_is_elsewhere_is_not_loaded_a_second_time() -> None:
    one = policy()
    there = Demand(queued=5, queued_since=0, elsewhere=True)
    assert one.decide(view(3_600, other=there)).cause is None
    called = Demand(held=1, held_since=10, elsewhere=True, load_time=60)
    assert one.decide(view(70, other=called)).cause is None
    assert one.decide(view(71, other=called)).model == "other"


def test_the_realtime_model_comes_back_although_it_is_elsewhere() -> None:
    assert (
        policy().decide(view(1, "eval", for_batch=True, chat=Demand(elsewhere=True))).model == CHAT
    )
