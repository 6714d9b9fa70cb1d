"""How an event stream passes through when nobody reads it."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gateway.calls.observers import UNOBSERVED
from gateway.pipeline.readers import MAX_HELD_EVENT_BYTES, StreamReader

ends = st.sampled_from([b"\n", b"\r\n", b"\r"])
data = st.sampled_from([b"{}", b'{"a": "[DONE]"}', b"\xc3\xa9", b"", b"x" * 40])


@st.composite
def events(draw: st.DrawFn) -> list[bytes]:
    """Those of one stream, which has one kind of line end."""
    end = draw(ends)
    said = draw(st.lists(data, max_size=5))
    return [b"data: " + one + end * 2 for one in [*said, b"[DONE]"]]


def pieces(stream: bytes, places: list[int]) -> list[bytes]:
    cuts = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    return [stream[start:end] for start, end in pairwise(cuts)]


@given(events(), st.lists(st.integers(0, 500), max_size=8))
def test_stream_reader_forwards_whole_events_and_holds_the_last(
    stream: list[bytes], places: list[int]
) -> None:
    reader = StreamReader(UNOBSERVED)
    passed, come = b"", b""
    for piece in pieces(b"".join(stream), places):
        come += piece
        passed += reader.feed(piece)
        assert come.startswith(passed)
        assert passed in (b"".join(stream[:count]) for count in range(len(stream)))
    assert passed == b"".join(stream[:-1])
    assert reader.close() == stream[-1]


def test_stream_reader_forwards_an_event_once_it_is_whole() -> None:
    reader = StreamReader(UNOBSERVED)
    assert reader.feed(b"data: 1\n") == b""
    assert reader.feed(b"\ndata: 2\n\nda") == b"data: 1\n\ndata: 2\n\n"
    assert reader.feed(b"ta: 3\n\n") == b"data: 3\n\n"
    assert reader.close() == b""


def test_stream_reader_forwards_a_large_event_in_pieces() -> None:
    reader = StreamReader(UNOBSERVED)
    large = b"data: " + b"x" * MAX_HELD_EVENT_BYTES
    assert reader.feed(large) == large
    assert reader.feed(b"\n\n") == b"\n\n"


def test_stream_reader_forwards_other_data_at_the_end() -> None:
    reader = StreamReader(UNOBSERVED)
    assert reader.feed(b"not events") == b""
    assert reader.close() == b"not events"
