"""What the native kernel makes of events is what `fast_strip.Frame` makes of them, or nothing."""

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.gateways.two_kernels import kernels
from support.records.mutations import mutated
from support.records.vllm_recordings import OTHER_ENGINES, load

from gateway.kernel import is_built
from gateway.wire.injection import Injection, Stripper
from gateway.wire.sse import Splitter
from gateway.wire.stripping.exact_event import frame_of_event, read_exact
from gateway.wire.stripping.fast_strip import Frame

pytestmark = pytest.mark.skipif(not is_built(), reason="there is no native kernel")

FIELDS: list[tuple[str, ...]] = [
    ("token_ids", "prompt_token_ids", "logprobs"),
    ("token_ids", "prompt_token_ids"),
    ("logprobs",),
    (),
]
OUTSIDE = b'data: {"id":"a","object":"c","created":1,"model":"m","choices":[%b]}\n\n'
CHOICE = b'{"index":0,"delta":%b,"logprobs":%b,"finish_reason":null,"token_ids":%b}'


def event_of(delta: bytes, logprobs: bytes = b"null", ids: bytes = b"[1]") -> bytes:
    return OUTSIDE % (CHOICE % (delta, logprobs, ids))


def frame_of(event: bytes, fields: tuple[str, ...], *, drop_empty: bool = True) -> Frame:
    exact = read_exact(event, event[6:-2])
    assert exact is not None
    return frame_of_event(exact, fields, drop_empty=drop_empty)


def check(frame: Frame, event: bytes) -> bool:
    """Compare both ways on one event; return whether the native one took it."""
    native, _ = kernels()
    cut = frame.cut(native.functions)
    assert cut is not None
    found = cut.strip(event)
    assert found is None or found == frame.strip_one(event)
    return found is not None


PLAIN = event_of(b'{"content":"x"}')


@pytest.mark.parametrize("fields", FIELDS)
@pytest.mark.parametrize("drop_empty", [False, True])
@pytest.mark.parametrize("delta", [b'{"content":"x"}', b"{}", b"null", b'{"a":[{"b":null}]}'])
@pytest.mark.parametrize("logprobs", [b"null", b"{}", b'{"content":[{"token":"a"}]}', b"0"])
@pytest.mark.parametrize("ids", [b"null", b"[]", b"[1,2]", b"1"])
def test_cut_takes_what_a_frame_takes(
    fields: tuple[str, ...], drop_empty: bool, delta: bytes, logprobs: bytes, ids: bytes
) -> None:
    frame = frame_of(PLAIN, fields, drop_empty=drop_empty)

    assert check(frame, event_of(delta, logprobs, ids))


VALUES = [
    *(b'"\\ud83d\\ude00"', b'"\xff"', b'"\xed\xa0\x80"', b"-0", b"1e400", b"0.5E-7", b"[ 1\t, 2 ]"),
    *(b'{"a" : 1}', b'{"a":1,"a":2}', b"true", b"[[[[]]]]", b'"\\/\\b\\f\\n\\r\\t\\"\\\\"'),
]
NO_VALUES = [
    *(b'"\\ud800"', b'"\\udc00"', b'"\\ud83dx"', b"01", b"1.", b"-", b".5", b"1e", b"+1", b"[1,]"),
    *(b"[1", b"{1:2}", b'{"a"}', b"nul", b"truer", b'"\\x"', b'"\\u12g4"', b'"\x01"', b'"a\nb"'),
    *(b"[1\r]", b"[\n]", b"", b" ", b"{,}", b'{"a":1,}', b'"', b"}", b"NaN", b"]", b'"a" "b"'),
]


@pytest.mark.parametrize("value", VALUES)
def test_cut_takes_values_that_msgspec_takes(value: bytes) -> None:
    assert check(frame_of(PLAIN, FIELDS[0]), event_of(value))
    assert check(frame_of(PLAIN, FIELDS[0]), event_of(b"{}", value, value))


@pytest.mark.parametrize("value", NO_VALUES)
def test_cut_leaves_what_is_no_value(value: bytes) -> None:
    frame = frame_of(PLAIN, FIELDS[0])

    assert not check(frame, event_of(value))
    assert not check(frame, event_of(b"{}", value))
    assert not check(frame, event_of(b"{}", b"null", value))


@pytest.mark.parametrize(
    "choice",
    [
        b'{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop","token_ids":[]}',
        b'{"index":0,"delta":{},"logprobs":null,"token_ids":[]}',
        b'{"index":0,"delta":{},"finish_reason":null,"token_ids":[]}',
        b'{"delta":{},"index":0,"logprobs":null,"finish_reason":null}',
        b'{"index":0,"index":0,"delta":{},"logprobs":null,"finish_reason":null}',
        b'{"index":0,"delta":{},"logprobs":null,"finish_reason":null,"other":1}',
        b'{"index":0, "delta":{},"logprobs":null,"finish_reason":null}',
        b'{"index":0,"delta":{},"logprobs":null,"finish_reason":null} ',
        b'{"index":0,"delta":{},"logprobs":null,"finish_reason":null},{}',
        b"{}",
        b"[]",
        b"",
    ],
)
def test_cut_leaves_other_choices(choice: bytes) -> None:
    assert not check(frame_of(PLAIN, FIELDS[0]), OUTSIDE % choice)


def test_cut_takes_nesting_up_to_a_limit() -> None:
    """More of it is Python's, whose limit is another."""
    frame = frame_of(PLAIN, FIELDS[0])

    assert check(frame, event_of(b"[" * 64 + b"]" * 64))
    assert not check(frame, event_of(b"[" * 65 + b"]" * 65))
    assert not check(frame, event_of(b"[" * 100_000))


def test_cut_grows_events_whose_values_are_shorter_than_null() -> None:
    frame = frame_of(PLAIN, FIELDS[0])
    cut = frame.cut(kernels()[0].functions)
    assert cut is not None
    event = event_of(b'{"content":"x"}', b"0", b"0")

    assert cut.strip(event * 100) == event_of(b'{"content":"x"}', b"null", b"null") * 100


@pytest.mark.parametrize("fields", FIELDS)
@pytest.mark.parametrize("rest", [b"", PLAIN[:50], b": ping\n\n", OUTSIDE % b"{}", b"\n" + PLAIN])
def test_cut_strips_the_events_that_a_text_begins_with(
    fields: tuple[str, ...], rest: bytes
) -> None:
    frame = frame_of(PLAIN, fields)
    cut = frame.cut(kernels()[0].functions)
    assert cut is not None

    assert cut.strip_run(PLAIN * 3 + rest) == ((frame.strip_one(PLAIN) or b"") * 3, len(PLAIN) * 3)
    assert cut.strip_run(rest or b"\n") is None


def frames_of(stream: bytes) -> Iterator[tuple[Frame, list[bytes]]]:
    """The frames that a stripper learns of a recorded stream, each with all events."""
    events = Splitter().feed(stream)
    raws = [event.raw for event in events]
    kinds: list[frozenset[Injection]] = [
        frozenset(("token_ids", "logprobs", "usage")),
        frozenset(("token_ids",)),
        frozenset(("logprobs",)),
        frozenset(("usage",)),
    ]
    for injected in kinds:
        for drop_empty in (False, True):
            stripper = Stripper(injected, drop_empty=drop_empty)
            for event in events:
                stripper.event(event)
                if isinstance(stripper.frame, Frame):
                    yield stripper.frame, raws
                    break


RECORDED = {
    **load(),
    **load(OTHER_ENGINES),
}
STREAMS = {name: one.body for name, one in RECORDED.items() if one.body.startswith(b"data:")}


def test_cut_takes_recorded_events_as_frames_do() -> None:
    taken = sum(
        check(frame, event)
        for stream in STREAMS.values()
        for frame, events in frames_of(stream)
        for event in events
    )

    assert taken > 1_000


@given(st.integers(0, 2**32))
def test_cut_takes_changed_events_as_frames_do(seed: int) -> None:
    chance = random.Random(seed)
    found = list(frames_of(chance.choice(sorted(STREAMS.values()))))
    for frame, events in found:
        for _ in range(5):
            check(frame, mutated(chance, chance.choice(events)))
