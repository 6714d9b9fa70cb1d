from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.records.vllm_recordings import load

from gateway.wire.sse import (
    Event,
    EventTooLarge,
    Splitter,
    encode,
    looks_like_events,
    with_data,
)

Fields = tuple[bytes, str, str]

STREAMS = [
    exchange.body
    for exchange in load().values()
    if dict(exchange.headers).get("content-type", "").startswith("text/event-stream")
]

PIECES = [
    *(b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b"\r\n\r\n"),
    *(b"data: one", b"data:two", b"data:  two", b"data", b"data:", b"dat", b"a: data: b"),
    *(b"event: error", b"id: 7", b"id: 7\x008", b"id", b"retry: 3", b": ping", b":", b" "),
    *(b"\xef\xbb\xbf", b"\xef", b"data: \xc3\xa9", b"event: \xe2\x82", b"\x00"),
]
streams = st.lists(st.sampled_from(PIECES) | st.binary(max_size=3), max_size=12).map(b"".join)
cuts = st.lists(st.integers(0, 80), max_size=8)


def reference(stream: bytes) -> list[Fields]:
    """The data, event and id of each event that has data, as the standard words it.

    Unlike there an id does not last beyond its event, and the end of the stream ends an event.
    """
    text = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    events: list[Fields] = []
    data, event, id_ = b"", "", ""
    for line in [*text.split(b"\n"), b""]:
        if line == b"":
            if data:
                events.append((data[:-1], event, id_))
            data, event, id_ = b"", "", ""
            continue
        if line.startswith(b":"):
            continue
        field, value = line.split(b":", 1) if b":" in line else (line, b"")
        if value.startswith(b" "):
            value = value[1:]
        if field == b"data":
            data += value + b"\n"
        elif field == b"event":
            event = value.decode(errors="replace")
        elif field == b"id" and b"\0" not in value:
            id_ = value.decode(errors="replace")
    return events


def split(chunks: Iterable[bytes]) -> list[Event]:
    splitter = Splitter()
    events = [event for chunk in chunks for event in splitter.feed(chunk)]
    return events + splitter.close()


def cut(stream: bytes, at: list[int]) -> list[bytes]:
    places = [0, *sorted(min(place, len(stream)) for place in at), len(stream)]
    return [stream[start:end] for start, end in pairwise(places)]


def fields(events: list[Event]) -> list[Fields]:
    return [(event.data, event.event, event.id) for event in events if event.data is not None]


@given(streams, cuts)
@example(b"\xef\xbb\xbfdata: a\n\n", [1, 2, 3])
@example(b"data: a\r\n\r\ndata: b\r\n\r\n", [8, 9, 10])
@example(b"data: a\r\rdata: b", [9])
@example(b"\r\n\r\r\n\n", [1, 2, 3, 4])
def test_splitter_events_do_not_depend_on_how_the_stream_is_split(
    stream: bytes, at: list[int]
) -> None:
    events = split(cut(stream, at))

    assert events == split([stream])
    assert fields(events) == reference(stream)
    assert b"".join(event.raw for event in events) == stream


@given(streams)
def test_splitter_gives_the_same_events_byte_by_byte(stream: bytes) -> None:
    assert split(cut(stream, list(range(len(stream))))) == split([stream])


@given(streams)
def test_splitter_holds_nothing_back_of_a_complete_event(stream: bytes) -> None:
    splitter = Splitter()
    splitter.feed(b"data: first\n\n")

    splitter.feed(stream + b"x\n\n")

    assert splitter.take_rest() == b""


@pytest.mark.parametrize("size", [1, 7, 100, 1460, 10**6])
def test_splitter_agrees_with_the_standard_on_recorded_streams(size: int) -> None:
    for stream in STREAMS:
        body = stream if size > 1 else stream[:3000]
        events = split(body[start : start + size] for start in range(0, len(body), size))
        assert fields(events) == reference(body)
        assert b"".join(event.raw for event in events) == body


def test_splitter_keeps_comments_and_the_blank_line_of_an_event() -> None:
    assert split([b": hello\nevent: ping\nid: 3\ndata: a\ndata: b\n\n"]) == [
        Event(b": hello\nevent: ping\nid: 3\ndata: a\ndata: b\n\n", b"a\nb", "ping", "3")
    ]


def test_splitter_returns_a_comment_at_once() -> None:
    splitter = Splitter()

    assert splitter.feed(b": keep-alive\n\n") == [Event(b": keep-alive\n\n")]


def test_splitter_splits_several_events_in_a_chunk() -> None:
    assert split([b"data: a\n\ndata: b\n\n\ndata:c\n\ndata: d"]) == [
        Event(b"data: a\n\n", b"a"),
        Event(b"data: b\n\n", b"b"),
        Event(b"\n"),
        Event(b"data:c\n\n", b"c"),
        Event(b"data: d", b"d"),
    ]


def test_splitter_waits_for_the_line_feed_after_a_carriage_return() -> None:
    splitter = Splitter()

    assert splitter.feed(b"data: a\r\n\r") == []
    assert splitter.feed(b"\n") == [Event(b"data: a\r\n\r\n", b"a")]


def test_splitter_returns_the_last_event_of_a_truncated_stream() -> None:
    splitter = Splitter()

    assert splitter.feed(b'data: {"x":') == []
    assert splitter.close() == [Event(b'data: {"x":', b'{"x":')]
    assert splitter.close() == []


def test_splitter_reads_a_long_line_in_small_chunks_in_linear_time() -> None:
    # 130,000 chunks: were each of them to cost what came before it, this would take an hour.
    splitter = Splitter()
    chunk = b"data: " + b"x" * 58

    for _ in range(130_000):
        assert splitter.feed(chunk) == []
    (event,) = splitter.feed(b"\n\n")

    assert len(event.raw) == 130_000 * 64 + 2


def test_splitter_raises_on_a_too_large_event_without_losing_a_byte() -> None:
    splitter = Splitter(max_event_bytes=10)
    passed = [event.raw for event in splitter.feed(b"data: a\n\ndata: 12345")]

    with pytest.raises(EventTooLarge, match="12 bytes and no end yet; at most 10"):
        splitter.feed(b"6")

    assert b"".join(passed) + splitter.take_rest() == b"data: a\n\ndata: 123456"
    assert splitter.close() == []


@given(streams, cuts, st.integers(0, 20))
def test_splitter_limit_loses_no_byte_of_any_stream(
    stream: bytes, at: list[int], limit: int
) -> None:
    splitter = Splitter(limit)
    passed = b""
    chunks = cut(stream, at)
    while chunks:
        try:
            passed += b"".join(event.raw for event in splitter.feed(chunks.pop(0)))
        except EventTooLarge:
            break
    passed += splitter.take_rest() + b"".join(chunks)

    assert passed == stream


def test_splitter_raises_if_the_first_chunk_is_past_the_limit() -> None:
    with pytest.raises(EventTooLarge):
        Splitter(max_event_bytes=10).feed(b"data: 123456")


@given(st.binary(), st.sampled_from(["", "error", "message_stop"]))
def test_splitter_reads_back_encoded_events(data: bytes, event: str) -> None:
    (read,) = split([encode(data, event)])

    assert read.data == data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    assert read.event == event


@given(streams)
@example(b"data: one\rdata: two\n\n")
def test_with_data_changes_only_the_data(stream: bytes) -> None:
    for event in split([stream]):
        if event.data is not None:
            _, changed = split([b"\n", with_data(event, b"{}")])
            assert (changed.data, changed.event, changed.id) == (b"{}", event.event, event.id)
            assert _without_data(changed) == _without_data(event)


def _without_data(event: Event) -> list[bytes]:
    lines = event.raw.splitlines(keepends=True)
    return [line for line in lines if line.strip(b"\r\n").partition(b":")[0] != b"data"]


def test_with_data_keeps_the_frame_of_an_event() -> None:
    (event,) = split([b": hi\r\nevent: e\r\ndata: 1\r\ndata: 2\r\n\r\n"])

    assert with_data(event, b"3") == b": hi\r\nevent: e\r\ndata: 3\r\n\r\n"


def test_with_data_keeps_lines_and_what_is_around_them() -> None:
    (event,) = split([b"data:[1,\r\n: hi\r\ndata:2]\r\n\r\n"])

    assert with_data(event, b"[3,\n4]") == b"data:[3,\r\n: hi\r\ndata:4]\r\n\r\n"


@pytest.mark.parametrize(
    ("text", "events"),
    [
        *(
            (text, True)
            for text in (b"data: {}", b"data:", b": hi", b"event:x", b"id:", b"\n\ndata:")
        ),
        *((text, None) for text in (b"", b"da", b"\n", b"\xef\xbb", b"\xef\xbb\xbf", b"retry")),
        *((text, False) for text in (b"{", b" [", b"<html>", b"dating", b"\0data:", b" " * 64)),
        (b"\xef\xbb\xbfdata:", True),
    ],
)
def test_beginning_tells_an_event_stream_from_another_body(text: bytes, events: object) -> None:
    assert looks_like_events(text) is events
