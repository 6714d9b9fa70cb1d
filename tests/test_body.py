from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stage import Stage

from gateway.body import Body, parse_object
from gateway.errors import BodyTooLarge, CallerGone, InvalidJSON

chunks = st.lists(st.binary(max_size=8), min_size=1, max_size=6)


class Incoming:
    """A body's chunks as a server hands them out; `asked` counts how often it was."""

    def __init__(self, *chunks: bytes, leaves: bool = False) -> None:
        self._chunks = chunks
        self._leaves = leaves
        self.asked = 0

    async def __call__(self) -> tuple[bytes, bool]:
        self.asked += 1
        if self._leaves and self.asked > len(self._chunks):
            raise CallerGone("the caller left while it sent its request")
        more = self._leaves or self.asked < len(self._chunks)
        return self._chunks[self.asked - 1], more


async def all_of(body: Body) -> list[bytes]:
    return [chunk async for chunk in body.stream()]


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with Stage() as stage:
        yield stage


async def test_a_body_that_is_there_is_not_asked_for() -> None:
    body = Body(b"abc")
    await body.gather(0)
    assert (body.data, body.length, await body.read()) == (b"abc", 3, b"abc")


async def test_it_is_read_once() -> None:
    incoming = Incoming(b"ab", b"", b"c")
    body = Body(source=incoming)
    assert await body.read() == b"abc"
    assert await body.read() == b"abc"
    assert (body.data, body.length, incoming.asked) == (b"abc", 3, 3)


@pytest.mark.parametrize("length", [None, 3])
async def test_what_comes_in_one_piece_is_gathered(length: int | None) -> None:
    body = Body(source=Incoming(b"abc"), length=length)
    await body.gather(0)
    assert (body.data, body.length) == (b"abc", 3)


async def test_a_short_body_is_gathered() -> None:
    body = Body(source=Incoming(b"ab", b"c"), length=3)
    await body.gather(3)
    assert body.data == b"abc"


@pytest.mark.parametrize("length", [None, 4])
async def test_a_longer_one_is_left_to_come(length: int | None) -> None:
    incoming = Incoming(b"ab", b"cd")
    body = Body(source=incoming, length=length)

    await body.gather(3)

    assert (body.data, body.length, incoming.asked) == (None, length, 1)
    assert await all_of(body) == [b"ab", b"cd"]


async def test_what_was_streamed_cannot_be_had_again() -> None:
    body = Body(source=Incoming(b"ab", b"c"))
    await all_of(body)
    with pytest.raises(RuntimeError, match="already"):
        await all_of(body)


async def test_a_caller_that_leaves_in_the_middle() -> None:
    with pytest.raises(CallerGone):
        await Body(source=Incoming(b"ab", leaves=True)).read()


def test_what_is_announced_too_large_is_refused_unread() -> None:
    incoming = Incoming(b"abcd")
    Body(source=incoming, length=3, limit=3).check_length()
    with pytest.raises(BodyTooLarge, match=r"larger than 3 bytes \(limits\.max_body_bytes\)"):
        Body(source=incoming, length=4, limit=3).check_length()
    assert incoming.asked == 0


def test_who_sends_too_much_is_not_listened_to_any_more() -> None:
    with pytest.raises(BodyTooLarge) as caught:
        Body(length=4, limit=3).check_length()
    assert caught.value.headers == ((b"connection", b"close"),)


async def test_too_large_a_body_is_refused_as_soon_as_it_is() -> None:
    incoming = Incoming(b"ab", b"cd", b"ef")
    with pytest.raises(BodyTooLarge):
        await Body(source=incoming, limit=3).read()
    assert incoming.asked == 2


async def test_too_large_a_body_in_one_piece_is_refused() -> None:
    with pytest.raises(BodyTooLarge):
        await Body(source=Incoming(b"abcd"), limit=3).gather(1000)


async def gathered(body: Body, most: int, *, whole: bool) -> bytes:
    await body.gather(most)
    if whole or body.data is not None:
        return await body.read()
    return b"".join(await all_of(body))


@given(chunks, st.integers(0, 50), st.integers(0, 50), st.booleans(), st.booleans())
def test_every_byte_is_had_once_or_the_body_is_refused(
    stage: Stage, pieces: list[bytes], most: int, limit: int, whole: bool, announced: bool
) -> None:
    meant = b"".join(pieces)
    length = len(meant) if announced else None
    reading = gathered(
        Body(source=Incoming(*pieces), length=length, limit=limit), most, whole=whole
    )
    if len(meant) > limit:
        with pytest.raises(BodyTooLarge):
            stage.run(reading)
    else:
        assert stage.run(reading) == meant


def test_an_object_is_parsed() -> None:
    assert parse_object(b' {"a": [1, null], "a": "\\u00e9"} ') == {"a": "\u00e9"}


@pytest.mark.parametrize("data", [b"[]", b"null", b'"text"', b"1"])
def test_json_that_is_no_object(data: bytes) -> None:
    with pytest.raises(InvalidJSON, match="must be a JSON object"):
        parse_object(data)


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b" ", b"{", b'{"a": 1', b'{"a": NaN}', b'{"a": 1,}', b"{'a': 1}", b"{} {}"),
        *(b'{"a": "\xff"}', b"\xff\xfe{\x00}\x00", b"\x1f\x8b\x08", b"[" * 100_000),
        b'{"a": "\\ud800"}',
    ],
)
def test_what_is_no_json(data: bytes) -> None:
    with pytest.raises(InvalidJSON, match="not valid JSON"):
        parse_object(data)


@given(st.binary(max_size=60))
def test_whatever_comes_is_an_object_or_refused(data: bytes) -> None:
    with suppress(InvalidJSON):
        assert isinstance(parse_object(data), dict)
