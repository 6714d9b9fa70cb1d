"""The fast way through a stream's events gives what the slow one gives, byte for byte."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.records.vllm_recordings import RecordedExchange, load

from gateway.calls.call import Call
from gateway.kernel import Kernel
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.readers import EventReader
from gateway.plugins.chains import Chains, Failures
from gateway.testing import RecordingCaller
from gateway.wire import injection
from gateway.wire.apis.registry import dialect_of
from gateway.wire.injection import INJECTIONS, Injection, Stripper
from gateway.wire.sse import Event, Splitter, encode
from gateway.wire.stripping.any_frame import AnyFrame
from gateway.wire.stripping.exact_event import ExactEvent, frame_of_event
from gateway.wire.stripping.fast_strip import Frame, strip_response

ALL: set[Injection] = set(INJECTIONS)
SOME: list[set[Injection]] = [{"token_ids"}, {"logprobs"}, {"usage"}, ALL]
ANSWERS = [exchange for exchange in load().values() if dialect_of(exchange.path)]
STREAMS = [exchange for exchange in ANSWERS if exchange.body.startswith(b"data:")]
PLAIN = [exchange.body for exchange in ANSWERS if not exchange.body.startswith(b"data:")]


class Slow(Stripper):
    """The reference: every event is read in full."""

    def event(self, event: Event) -> bytes:
        return event.raw if event.data is None else self._any_event(event, event.data)

    def plain(self, body: bytes, kernel: Kernel | None = None) -> bytes:
        return self._any_plain(body)


def both(
    events: list[Event], injected: set[Injection], drop_empty: bool
) -> tuple[list[bytes], ...]:
    """What each way says of each event, and at the end."""
    found = []
    for kind in (Stripper, Slow):
        one = kind(injected, drop_empty=drop_empty)
        found.append([*(one.event(event) for event in events), one.close()])
    return tuple(found)


def check(events: list[Event], injected: set[Injection], drop_empty: bool = True) -> None:
    """The fast way is the slow one, event by event, and where they come in one read."""
    fast, slow = both(events, injected, drop_empty)
    assert fast == slow
    raws = [event.raw for event in events]
    stream = b"".join(raws)
    for reads in (raws, [stream], [stream[:1], stream[1:]]):
        assert read(reads, Stripper(injected, drop_empty=drop_empty)) == b"".join(slow)


def read(reads: list[bytes], stripper: Stripper) -> bytes:
    """What a caller is sent of a stream that comes in these reads."""
    call = Call(RecordingCaller(), method="POST", path="/v1/chat/completions")
    reader = EventReader(Exchange(call, Chains(Failures())), stripper, 1 << 20)
    return b"".join(map(reader.feed, reads)) + reader.close()


def both_plain(body: bytes, injected: set[Injection]) -> tuple[bytes, bytes]:
    return Stripper(injected).plain(body), Slow(injected).plain(body)


AFTER_THE_END = encode(
    b'{"id":"a","object":"c","created":1,"model":"m","choices":[{"index":0,"delta":{},'
    b'"logprobs":{"content":[]},"finish_reason":"stop","token_ids":[4]}]}'
)

injections = st.sets(st.sampled_from(INJECTIONS))


def test_end_that_only_the_close_of_a_stream_completes_comes_last() -> None:
    """A CR at the end of a read may be half of a line end."""
    done = b"data: [DONE]\r\r"
    assert read([AFTER_THE_END, done], Stripper({"usage"})) == AFTER_THE_END + done


@pytest.mark.parametrize("exchange", STREAMS, ids=lambda exchange: exchange.name)
def test_fast_strip_equals_slow_strip_on_recorded_streams(exchange: RecordedExchange) -> None:
    splitter = Splitter()
    events = splitter.feed(exchange.body) + splitter.close()

    for injected in SOME:
        check(events, injected)


def test_fast_strip_is_used_for_streams_of_one_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    """As otherwise the tests here would compare the slow way with itself."""
    cut: list[bytes | None] = []
    fast = Frame.strip_one

    def watched(self: Frame, raw: bytes) -> bytes | None:
        cut.append(fast(self, raw))
        return cut[-1]

    monkeypatch.setattr(Frame, "strip_one", watched)
    for stream in (VLLM, SORTED):
        cut.clear()
        both([Event(encode(data), data) for data in stream], ALL, True)
        assert cut == [
            encode(stream[1].replace(b"[2]", b"null").replace(b'{"content":[]}', b"null")),
            b"",
            None,
        ]


VLLM = [
    b'{"id":"a","object":"c","created":1,"model":"m","choices":[{"index":0,"delta":%b,'
    b'"logprobs":{"content":[]},"finish_reason":%b,"token_ids":[%b]}]}' % part
    for part in (
        (b'{"content":"x"}', b"null", b"1"),
        (b'{"content":"y"}', b"null", b"2"),
        (b"{}", b"null", b"3"),
        (b"{}", b'"stop"', b"4"),
    )
]
SORTED = [
    b'{"choices":[{"delta":%b,"finish_reason":%b,"index":0,"logprobs":{"content":[]},'
    b'"token_ids":[%b]}],"created":1,"id":"a","model":"m","object":"c"}' % part
    for part in (
        (b'{"content":"x"}', b"null", b"1"),
        (b'{"content":"y"}', b"null", b"2"),
        (b"{}", b"null", b"3"),
        (b"{}", b'"stop"', b"4"),
    )
]

LLAMA_CPP = [
    b'{"choices":[{"finish_reason":%b,"index":0,"delta":%b%b}],"created":1,"id":"a"}' % part
    for part in (
        (b"null", b'{"role":"assistant"}', b""),
        (b"null", b'{"content":"x"}', b',"logprobs":{"content":[]}'),
        (b"null", b"{}", b',"logprobs":{"content":[]}'),
        (b'"stop"', b"{}", b""),
    )
]
LITELLM = [
    b'{"id":"a","choices":[{%b"index":0,"delta":%b%b}]}' % part
    for part in (
        (b"", b'{"role":"assistant"}', b""),
        (b'"token_ids":[1],', b'{"content":"x"}', b',"logprobs":{"content":[]}'),
        (b'"token_ids":[2],', b'{"content":"y"}', b""),
        (b"", b"{}", b',"finish_reason":"stop"'),
    )
]
SPACED = [data.replace(b",", b", ").replace(b":", b": ") for data in (*VLLM, *LLAMA_CPP, *LITELLM)]

FIRST = VLLM[0]
NASTY = [
    b"[DONE]",
    b"{}",
    b"null",
    FIRST + b" ",
    FIRST[:-1],
    FIRST.replace(b'"x"', rb'"\"logprobs\":null,\"token_ids\":[9]"'),
    FIRST.replace(b'"x"', b'"}],"'),
    FIRST.replace(b'"x"', b'"\xff"'),
    FIRST.replace(b'"x"', b'"\x00"'),
    FIRST.replace(b'"x"', b'"[\x00]"'),
    FIRST.replace(b'"x"', b'{"logprobs":{"content":[]},"token_ids":[1]}'),
    FIRST.replace(b'"x"', b"[" * 2000 + b"]" * 2000),
    FIRST.replace(b'"token_ids"', rb'"token\u005fids"'),
    FIRST.replace(b'"token_ids":[1]', b'"token_ids":[1],"token_ids":null'),
    FIRST.replace(b'"token_ids":[1]', b'"token_ids":null,"token_ids":[1]'),
    FIRST.replace(b'"token_ids":[1]', b'"prompt_token_ids":[4],"token_ids":[1]'),
    FIRST.replace(b'"token_ids":[1]', b'"token_ids":[1],"prompt_token_ids":[4]'),
    FIRST.replace(b'"token_ids":[1]', b'"token_ids":[1],"unknown":1'),
    FIRST.replace(b'"token_ids":[1]', b'"token_ids": [1]'),
    FIRST.replace(b'"token_ids":[1]', b'"token_ids":[ 1 ]'),
    FIRST.replace(b'"token_ids":[1]', b'"token_ids":[01]'),
    FIRST.replace(b'"index":0,', b""),
    FIRST.replace(b'"index":0', b'"index":1e2'),
    FIRST.replace(b'"index":0', b'"index":0},{"index":1'),
    FIRST.replace(b'"index":0', b'"index":0}],"choices":[{"index":1'),
    FIRST.replace(b'[{"index"', b'[ {"index"'),
    FIRST.replace(b'{"index"', b' {"index"'),
    FIRST.replace(b'"model":"m"', b'"model":"m","prompt_token_ids":[7]'),
    FIRST.replace(b'"model":"m"', b'"model":"m","prompt_token_ids":null'),
    FIRST.replace(b'"model":"m"', b'"model":"m", "x":"]}"'),
    FIRST.replace(b'"model":"m"', b'"model":"m","system_fingerprint":"f"'),
    FIRST.replace(b'"choices":[{', b'"choices":[null,{'),
    b'{"choices":[],"usage":{"prompt_tokens":1},"system_fingerprint":"f"}',
    VLLM[3].replace(b"}]}", b'}],"system_fingerprint":"f"}'),
    b'{"choices":' + FIRST + b"}",
]
nasty = st.sampled_from([*VLLM, *SORTED, *LLAMA_CPP, *LITELLM, *SPACED, *NASTY])


def frames(data: bytes) -> list[bytes]:
    """The ways in which a stream may put `data`."""
    return [
        b"data: %b\n\n" % data,
        b"data:%b\n\n" % data,
        b"data:  %b\n\n" % data,
        b"data: %b\r\n\r\n" % data,
        b"data:%b\r\n\n" % data,
        b"data: %b\r\r" % data,
        b"id: 1\ndata: %b\n\n" % data,
        b"data: %b\n\n" % data.replace(b",", b",\ndata: ", 1),
        b"data: %b\n\n" % data.replace(b',"delta"', b',\n"delta"', 1),
        b"data:%b\n:\n\n" % data,
    ]


@given(st.lists(nasty, max_size=6), injections, st.booleans())
@example([*VLLM, VLLM[1]], ALL, True)
def test_fast_strip_equals_slow_strip_on_adversarial_events(
    sent: list[bytes], injected: set[Injection], drop_empty: bool
) -> None:
    check([Event(encode(data), data) for data in sent], injected, drop_empty)


@given(st.lists(nasty.flatmap(lambda data: st.sampled_from(frames(data))), max_size=6), injections)
@example([encode(VLLM[2]).replace(b',"delta"', b',\n"delta"', 1)], ALL)
@example([encode(b"[DONE]"), AFTER_THE_END], {"token_ids", "usage"})
def test_fast_strip_equals_slow_strip_on_adversarial_frames(
    sent: list[bytes], injected: set[Injection]
) -> None:
    splitter = Splitter()
    stream = encode(VLLM[0]) + b"".join(sent)

    check(splitter.feed(stream) + splitter.close(), injected, True)


def test_fast_strip_cuts_a_run_of_events_at_once() -> None:
    """As otherwise the tests here would compare events that come singly with themselves."""
    for stream in (VLLM, SORTED):
        run = b"".join(map(encode, [stream[0], stream[1], stream[2], stream[1], stream[1]]))
        stripper = Stripper(ALL)
        stripper.event(Event(encode(stream[0]), stream[0]))
        without = encode(stream[1].replace(b"[2]", b"null").replace(b'{"content":[]}', b"null"))
        first = without.replace(b'"y"', b'"x"')
        assert stripper.strip_run(run) == (first + without + without, run.rfind(b"data: "))


@given(nasty, st.integers(0, 400), st.integers(0, 3), st.binary(max_size=3), injections)
def test_fast_strip_equals_slow_strip_on_events_with_changed_bytes(
    base: bytes, at: int, gone: int, put: bytes, injected: set[Injection]
) -> None:
    changed = base[:at] + put + base[at + gone :]
    for first in (VLLM[0], SORTED[0]):
        sent = [first, changed, base]
        splitter = Splitter()
        events = splitter.feed(b"".join(map(encode, sent))) + splitter.close()
        check(events, injected)


KEYS = ["index", "delta", "text", "logprobs", "finish_reason", "token_ids", "prompt_token_ids", "x"]
values = st.recursive(
    st.none() | st.integers() | st.text(max_size=3) | st.sampled_from(KEYS),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner),
    max_leaves=4,
)
choices = st.dictionaries(st.sampled_from(KEYS), values)
tops = st.dictionaries(
    st.sampled_from(["id", "model", "usage", "prompt_token_ids", "choices"]), values, max_size=3
)


@given(
    tops,
    st.lists(choices.map(lambda one: {**one, "finish_reason": None}) | choices, min_size=2),
    st.sampled_from([(",", ":"), (", ", ": ")]),
    injections,
    st.booleans(),
)
def test_fast_strip_equals_slow_strip_on_streams_of_any_choices(
    top: dict[str, object],
    sent: list[dict[str, object]],
    separators: tuple[str, str],
    injected: set[Injection],
    drop_empty: bool,
) -> None:
    events = []
    for choice in sent:
        data = json.dumps({**top, "choices": [choice]}, separators=separators).encode()
        events.append(Event(encode(data), data))

    check(events, injected, drop_empty)


@pytest.mark.parametrize("stream", [LLAMA_CPP, LITELLM, SPACED[:4], SPACED[4:8], SPACED[8:]])
def test_other_engines_streams_are_stripped_quickly(
    monkeypatch: pytest.MonkeyPatch, stream: list[bytes]
) -> None:
    cut: list[bytes | None] = []
    fast = AnyFrame.strip_one

    def watched(self: AnyFrame, raw: bytes) -> bytes | None:
        cut.append(fast(self, raw))
        return cut[-1]

    monkeypatch.setattr(AnyFrame, "strip_one", watched)
    stripper = Stripper(ALL)
    for data in [*stream[:2], *([stream[1]] * 8)]:
        stripper.event(Event(encode(data), data))

    assert sum(one is not None for one in cut) >= 8
    assert not any(one is not None and b"logprobs" in one and b"[]" in one for one in cut)


def test_fast_strip_gives_up_on_a_stream_whose_frame_always_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[object] = []

    def counted(event: ExactEvent, *args: Any, **more: Any) -> Frame:
        tried.append(event)
        return frame_of_event(event, *args, **more)

    monkeypatch.setattr(injection, "frame_of_event", counted)
    stripper = Stripper(ALL)
    for created in range(20):
        data = FIRST.replace(b'"created":1', b'"created":%d' % created)
        assert stripper.event(Event(encode(data), data)) == encode(
            data.replace(b"[1]", b"null").replace(b'{"content":[]}', b"null")
        )
    assert len(tried) == injection.MAX_FRAME_MISSES


def test_fast_strip_equals_slow_strip_on_recorded_plain_responses() -> None:
    for body in PLAIN:
        for injected in SOME:
            fast, slow = both_plain(body, injected)
            assert fast == slow


@pytest.mark.parametrize(
    "body",
    [
        load()["default/chat_token_ids_logprobs"].body,
        VLLM[0].replace(b"delta", b"message"),
        SORTED[0],
    ],
)
def test_fast_strip_is_used_for_plain_responses(body: bytes) -> None:
    cut = strip_response(body, (), ("token_ids",))

    assert cut is not None
    assert b'"token_ids":null' in cut
    assert cut != body


@given(
    st.sampled_from([*(body for body in PLAIN if len(body) < 3000), *SORTED, *NASTY]),
    st.integers(0, 3000),
    st.integers(0, 3),
    st.binary(max_size=3),
    injections,
)
def test_fast_strip_equals_slow_strip_on_plain_responses_with_changed_bytes(
    base: bytes, at: int, gone: int, put: bytes, injected: set[Injection]
) -> None:
    for body in (base, base[:at] + put + base[at + gone :]):
        fast, slow = both_plain(body.replace(b'"delta"', b'"message"'), injected)
        assert fast == slow


@given(
    tops,
    st.lists(choices, max_size=3),
    st.sampled_from([(",", ":"), (", ", ": ")]),
    st.booleans(),
    injections,
)
def test_fast_strip_equals_slow_strip_on_plain_responses_of_any_choices(
    top: dict[str, object],
    said: list[dict[str, object]],
    separators: tuple[str, str],
    sort: bool,
    injected: set[Injection],
) -> None:
    first = {} if sort else {"id": "a"}
    whole = {**first, **top, "choices": said}
    body = json.dumps(whole, separators=separators, sort_keys=sort).encode()

    fast, slow = both_plain(body, injected)

    assert fast == slow
