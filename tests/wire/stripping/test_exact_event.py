"""Events that no frame fits, of the usual form: the quick way gives what the slow one gives."""

import json
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.wire.injection import INJECTIONS, Injection, Stripper
from gateway.wire.sse import Event, encode

ALL: set[Injection] = set(INJECTIONS)

OUTSIDE = {"id": "a", "object": "c", "created": 1, "model": "m"}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2}


def event_of(choices: list[dict[str, object]], **more: object) -> Event:
    data = json.dumps({**OUTSIDE, "choices": choices, **more}, separators=(",", ":")).encode()
    return Event(encode(data), data)


def choice(reason: object = None, delta: object = None, **more: object) -> dict[str, object]:
    said = {"content": "x"} if delta is None else delta
    numbers = {"content": [{"logprob": -1.5}]}
    known = {"index": 0, "delta": said, "logprobs": numbers, "finish_reason": reason}
    return {**known, "token_ids": [1], **more}


FIRST = event_of([choice()], prompt_token_ids=[7, 8], prompt_text=None)
NEXT = event_of([choice()])
OF_COMPLETIONS: dict[str, object] = {
    "index": 0,
    "text": "x",
    "logprobs": None,
    "finish_reason": None,
    "stop_reason": None,
    "prompt_token_ids": [7],
    "token_ids": [1],
}
LAST = event_of([choice("stop", {})])
TOLD = event_of([], usage=USAGE)
FINGERPRINT = event_of([], usage=USAGE, system_fingerprint="f")


def read(stripper: Stripper, events: list[Event], way: Callable[[Event], bytes]) -> list[bytes]:
    return [*(way(event) for event in events), stripper.close()]


def both(events: list[Event], injected: set[Injection], drop_empty: bool) -> list[list[bytes]]:
    """What a Stripper gives, and one that has only its slow way."""
    quick = Stripper(injected, drop_empty=drop_empty)
    slow = Stripper(injected, drop_empty=drop_empty)
    return [
        read(quick, events, quick.event),
        read(slow, events, lambda event: slow._any_event(event, event.data or b"")),
    ]


@given(
    st.lists(
        st.one_of(
            st.sampled_from([FIRST, NEXT, LAST, TOLD, FINGERPRINT]),
            st.builds(
                lambda choices, more: event_of(choices, **more),
                st.lists(
                    st.builds(
                        lambda reason, delta, more: choice(reason, delta, **more),
                        st.sampled_from([None, "", "null", "stop", 1]),
                        st.sampled_from([{}, {"content": "x"}, {"role": "assistant"}]),
                        st.dictionaries(
                            st.sampled_from(
                                ["index", "logprobs", "token_ids", "prompt_token_ids", "other"]
                            ),
                            st.none() | st.sampled_from([1, [2]]),
                        ),
                    ),
                    max_size=2,
                ),
                st.dictionaries(
                    st.sampled_from(
                        ["usage", "prompt_token_ids", "prompt_text", "system_fingerprint", "id"]
                    ),
                    st.none() | st.sampled_from(["f", [7], USAGE]),
                ),
            ),
        ),
        max_size=5,
    ),
    st.sets(st.sampled_from(INJECTIONS), min_size=1),
    st.booleans(),
)
@example([FIRST, NEXT, LAST, FINGERPRINT], ALL, True)
@example([LAST, event_of([choice(index=1)]), TOLD], ALL, True)
@example([event_of([choice("stop")], system_fingerprint=None), FINGERPRINT], ALL, True)
@example([event_of([choice("stop")], system_fingerprint="g"), FINGERPRINT], ALL, True)
@example([event_of([choice("stop")], id=None), FINGERPRINT], ALL, False)
@example([event_of([choice("")]), LAST, TOLD], ALL, True)
@example([LAST, NEXT, TOLD], ALL, True)
@example([LAST, event_of([], usage=USAGE, prompt_token_ids=[7])], {"usage"}, True)
@example([event_of([OF_COMPLETIONS]), event_of([OF_COMPLETIONS]), LAST, TOLD], ALL, True)
def test_quick_way_of_whole_events_equals_the_slow_one(
    events: list[Event], injected: set[Injection], drop_empty: bool
) -> None:
    quick, slow = both(events, injected, drop_empty)

    assert quick == slow


@pytest.mark.parametrize(
    "odd",
    [
        b'"token_ids":[1],"token_ids":null,',
        rb'"token\u005fids":[1],',
        b'"finish_reason":"stop",',
        b'"logprobs":null,',
        b"\n",
    ],
)
def test_stream_of_a_worker_that_ignores_what_is_injected_is_watched(odd: bytes) -> None:
    bare = event_of([{"index": 0, "delta": {"content": "x"}, "finish_reason": None}])
    data = (bare.data or b"").replace(b'"index"', odd + b'"index"')
    events = [bare, bare, Event(encode(data), data), bare, LAST, TOLD]
    quick, slow = both(events, ALL, True)

    assert quick == slow
    assert b"[1]" not in b"".join(quick)


def test_prompt_ids_beside_the_usage_do_not_move_to_the_caller() -> None:
    stripper = Stripper(ALL)
    stripper.event(LAST)
    ended = stripper.event(event_of([], usage=USAGE, prompt_token_ids=[7], system_fingerprint="f"))

    assert b"system_fingerprint" in ended
    assert b"prompt_token_ids" not in ended


@pytest.mark.parametrize("gone", ["logprobs", "finish_reason"])
def test_choice_that_lacks_a_field_is_left_to_the_slow_way(gone: str) -> None:
    """As it tells what its engine sends if not asked."""
    odd = choice()
    del odd[gone]
    quick, slow = both([event_of([odd]), NEXT, NEXT, LAST, TOLD], ALL, True)

    assert quick == slow
    assert b'"logprobs"' not in b"".join(quick)


def test_events_of_vllm_streams_never_need_the_slow_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """As otherwise the tests here would compare the slow way with itself."""
    slow: list[bytes] = []

    def watched(_: Stripper, __: Event, data: bytes) -> bytes:
        slow.append(data)
        return b""

    monkeypatch.setattr(Stripper, "_any_event", watched)
    for events in ([FIRST, NEXT, NEXT, LAST, TOLD], [NEXT, FIRST, LAST, FINGERPRINT]):
        stripper = Stripper(ALL)
        for event in events:
            stripper.event(event)

    assert not slow
