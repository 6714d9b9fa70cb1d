"""A response that the native kernel carries is, for everybody, the one that Python carries."""

import random
from collections.abc import Callable, Sequence
from typing import cast

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.gateways.two_kernels import (
    CHUNKED,
    UNTIL_CLOSE,
    Counting,
    Seeing,
    Watching,
    carried,
    chunked,
    cut_up,
    in_reads,
    kernels,
)
from support.records.mutations import mutated
from support.records.vllm_recordings import OTHER_ENGINES, load

from gateway import Gaps, Gathered
from gateway.kernel import Kernel, is_built
from gateway.kernel.interface import Functions
from gateway.testing import DONE, sse
from gateway.wire.injection import INJECTIONS, Injection

pytestmark = pytest.mark.skipif(not is_built(), reason="there is no native kernel")

ALL: frozenset[Injection] = frozenset(INJECTIONS)
KINDS: list[frozenset[Injection]] = [
    ALL,
    frozenset(("token_ids", "logprobs")),
    frozenset(("usage",)),
    frozenset(),
]
RECORDED = {**load(), **load(OTHER_ENGINES)}
STREAMS = [one.body for one in RECORDED.values() if one.body.startswith(b"data:")]
OUTSIDE = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "sim"}


def token(place: int, **more: object) -> bytes:
    said = {"content": f" t{place}"} if place else {"role": "assistant", "content": " t"}
    choice = {
        "index": 0,
        "delta": said,
        "logprobs": {"content": [{"token": " t", "logprob": -0.5}]},
        "finish_reason": None,
        "token_ids": [5_000 + place],
    }
    return sse({**OUTSIDE, "choices": [choice], **more})


END = (
    sse({**OUTSIDE, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    + sse({**OUTSIDE, "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 9}})
    + DONE
)
TOKENS = [token(place) for place in range(12)]


async def compare(
    pieces: Sequence[bytes],
    injected: frozenset[Injection] = ALL,
    observer: Callable[[], Watching] = Watching,
) -> tuple[int, int]:
    """Carry the response by both kernels; return how many reads the native one took and left."""
    native, python = kernels()
    counting = Counting(native.functions)
    watched = Kernel("native", cast(Functions, counting))
    one = await carried(watched, pieces, injected, observer())
    other = await carried(python, pieces, injected, observer())
    assert one == other
    return counting.taken["taken"], watched.fallbacks["stream"]


@pytest.mark.parametrize("injected", KINDS, ids=lambda kind: "+".join(sorted(kind)) or "nothing")
@pytest.mark.parametrize("framing", ["chunked", "until close"])
async def test_events_that_come_singly_are_taken(
    injected: frozenset[Injection], framing: str
) -> None:
    parts = [*TOKENS, END]
    pieces = [CHUNKED, *chunked(parts)] if framing == "chunked" else [UNTIL_CLOSE, *parts]

    taken, left = await compare(pieces, injected)

    assert taken == 11
    assert left == 0


@pytest.mark.parametrize("framing", [CHUNKED, UNTIL_CLOSE])
@pytest.mark.parametrize("count", [1, 2])
async def test_events_behind_a_read_with_the_head_are_taken(framing: bytes, count: int) -> None:
    parts = [*TOKENS, END]
    pieces = chunked(parts) if framing is CHUNKED else parts

    assert await compare([framing + b"".join(pieces[:count]), *pieces[count:]]) == (12 - count, 0)
    assert await compare([framing[:40], framing[40:] + pieces[0], *pieces[1:]]) == (11, 0)


async def test_finish_and_usage_are_taken_in_reads_of_their_own() -> None:
    told = END.replace(b'"finish_reason"', b'"logprobs":null,"finish_reason"')
    ends = [part + b"\n\n" for part in told.split(b"\n\n")[:-1]]

    assert await compare([CHUNKED, *chunked([*TOKENS, *ends])]) == (13, 0)
    assert await compare([CHUNKED, *chunked([*TOKENS, ends[0] + ends[1], ends[2]])]) == (12, 0)


async def test_events_that_share_a_read_are_taken_together() -> None:
    reads = [b"".join(chunked(TOKENS[start : start + 3])[:-1]) for start in range(0, 12, 3)]

    assert await compare([CHUNKED, *reads, *chunked([END])]) == (3, 0)


async def test_chunk_of_several_events_is_taken() -> None:
    parts = [b"".join(TOKENS[start : start + 3]) for start in range(0, 12, 3)]

    assert await compare([CHUNKED, *chunked([*parts, END])]) == (3, 0)


@pytest.mark.parametrize("place", [1, 3, 5, 200, -1, -2, -3])
async def test_chunk_in_two_reads_is_left_and_later_ones_are_taken(place: int) -> None:
    pieces = [CHUNKED, *chunked([*TOKENS, END])]
    pieces[5:6] = [pieces[5][:place], pieces[5][place:]]

    assert await compare(pieces) == (9, 2)


@pytest.mark.parametrize("place", [1, 6, 50, -1])
async def test_event_in_two_chunks_is_left_and_those_behind_it_are_taken(place: int) -> None:
    parts = [*TOKENS, END]
    parts[5:6] = [parts[5][:place], parts[5][place:]]

    assert await compare([CHUNKED, *chunked(parts)]) == (10, 1)


@pytest.mark.parametrize(
    "chunk",
    [b"%x;a=b\r\n%b\r\n", b"00%x\r\n%b\r\n", b"%X\r\n%b\r\n"],
    ids=["extension", "zeros", "upper case"],
)
async def test_chunks_of_other_forms_reach_the_caller(chunk: bytes) -> None:
    pieces = [CHUNKED, *(chunk % (len(part), part) for part in [*TOKENS, END]), b"0\r\n\r\n"]

    await compare(pieces)


@pytest.mark.parametrize(
    "text",
    [
        b": ping\n\n",
        b"data: {}\n\n",
        b"event: x\ndata: 1\n\n",
        b"data: 1\r\n\r\n",
        b"\n",
        b"data: x",
    ],
)
async def test_what_is_no_event_of_the_form_is_left(text: bytes) -> None:
    parts = [*TOKENS[:6], text, *TOKENS[6:], END]
    for injected in KINDS:
        await compare([CHUNKED, *chunked(parts)], injected)
        await compare([UNTIL_CLOSE, *parts], injected)


async def test_event_behind_the_last_chunk_breaks_the_response_as_without_a_tap() -> None:
    pieces = [CHUNKED, *chunked(TOKENS), *chunked(TOKENS)]

    await compare(pieces)


@pytest.mark.parametrize("framing", [CHUNKED, UNTIL_CLOSE])
async def test_response_that_breaks_off_among_taken_events(framing: bytes) -> None:
    parts = chunked(TOKENS)[:-1] if framing is CHUNKED else TOKENS

    await compare([framing, *parts])
    await compare([framing, *parts, parts[-1][:40]])


async def test_observer_that_sees_each_chunk_does_so_of_taken_ones() -> None:
    assert await compare([CHUNKED, *chunked([*TOKENS, END])], observer=Seeing) == (11, 0)


class Twice(Gathered):
    """A collector of a plugin's own."""

    def add(self, chunk: bytes) -> None:
        super().add(chunk)
        super().add(chunk)


class WatchingTwice(Watching):
    def __init__(self) -> None:
        super().__init__()
        self.reads = Twice(1 << 20)
        self.collectors = (self.reads, self.gaps)


async def test_collector_that_does_more_sees_each_chunk() -> None:
    pieces = [CHUNKED, *chunked([*TOKENS, END])]

    assert await compare(pieces, observer=WatchingTwice) == (11, 0)


@pytest.mark.parametrize("room", [0, 1, 1_000, 1_600, 3_000])
async def test_collector_without_room_is_closed_at_the_same_chunk(room: int) -> None:
    await compare([CHUNKED, *chunked([*TOKENS, END])], observer=lambda: Watching(room))


async def test_counter_of_a_long_stream_makes_room_at_the_same_chunk() -> None:
    """It counts the events so far, and drops them."""
    tokens = [token(place) for place in range(1_000)]

    taken, left = await compare([CHUNKED, *chunked([*tokens, *END.split(b"\n\n")[:1], DONE])])

    assert taken > 900
    assert 1 <= left <= 10


async def test_long_event_is_taken_if_it_comes_in_one_read() -> None:
    long = token(3).replace(b" t3", b"x" * 300_000)
    parts = [*TOKENS, long, *TOKENS, END]

    taken, _ = await compare([CHUNKED, *chunked(parts)], observer=lambda: Watching(1 << 30))

    assert taken >= 22


seeds = st.integers(0, 2**32)


def random_response(chance: random.Random, stream: bytes) -> list[bytes]:
    parts = list(cut_up(chance, stream))
    if chance.random() < 0.3:
        return [UNTIL_CLOSE, *in_reads(chance, parts)]
    pieces = chunked(parts)
    if chance.random() < 0.2:
        pieces = pieces[: chance.randrange(len(pieces))]
    return [CHUNKED, *in_reads(chance, pieces)]


@given(seeds)
async def test_recorded_stream_cut_up_anyhow_is_carried_alike(seed: int) -> None:
    chance = random.Random(seed)
    pieces = random_response(chance, chance.choice(STREAMS))

    await compare(pieces, chance.choice(KINDS), chance.choice((Watching, Seeing)))


@given(seeds)
async def test_changed_stream_is_carried_alike(seed: int) -> None:
    chance = random.Random(seed)
    events = [*TOKENS, *END.split(b"\n\n")]
    place = chance.randrange(len(events))
    events[place] = mutated(chance, events[place])

    await compare(random_response(chance, b"".join(events)), chance.choice(KINDS))


@given(seeds)
async def test_changed_bytes_on_the_wire_are_carried_alike(seed: int) -> None:
    """What is no HTTP ends the response at the same place."""
    chance = random.Random(seed)
    pieces = random_response(chance, b"".join([*TOKENS, END]))
    assume(len(pieces) > 1)  # else it was cut off after the head
    place = chance.randrange(1, len(pieces))
    pieces[place] = mutated(chance, pieces[place]) or b"0"

    await compare(pieces, chance.choice(KINDS))


class Many(Watching):
    """An observer with more collectors than a kernel has room for."""

    def __init__(self) -> None:
        super().__init__()
        self.collectors = (*(self.reads for _ in range(9)), self.gaps)  # type: ignore[assignment]


class Finely(Watching):
    """An observer whose histogram has more bounds than a kernel has room for."""

    def __init__(self) -> None:
        super().__init__()
        self.gaps = Gaps(tuple(float(bound) for bound in range(1, 50)))
        self.collectors = (self.reads, self.gaps)


class Boundless(Watching):
    """An observer whose room is no C integer."""

    def __init__(self) -> None:
        super().__init__(1 << 80)


@pytest.mark.parametrize("observer", [Many, Finely, Boundless])
async def test_collectors_that_a_kernel_cannot_take_are_filled_by_python(
    observer: type[Watching],
) -> None:
    assert await compare([CHUNKED, *chunked([*TOKENS, END])], observer=observer) == (11, 0)
