"""Lineage, held against a model that keeps everything and looks at everything."""

from array import array
from collections.abc import Sequence

from gateway_plugins.trace_capture.sequences.lineage import (
    DIGEST_SIZE,
    Key,
    Lineage,
    Relation,
    common_prefix,
)
from hypothesis import example, given
from hypothesis import strategies as st


def parent(lineage: Lineage, prompt: bytes) -> tuple[Key, int] | None:
    """The sequence that a prompt extends, else the one that it has most in common with."""
    found = lineage.relation(prompt)
    if found.parent is not None:
        return found.parent, found.extends
    return (found.nearest, found.common) if found.nearest is not None else None


def digest_of(sequence: bytes) -> bytes:
    return Lineage().add((0, 0), sequence)


def packed(*ids: int) -> bytes:
    return array("i", ids).tobytes()


def naive_common(one: bytes, other: bytes) -> int:
    pairs = zip(memoryview(one).cast("i"), memoryview(other).cast("i"), strict=False)
    shared = 0
    for left, right in pairs:
        if left != right:
            break
        shared += 4
    return shared


class Naive:
    """Keeps every sequence and compares with each."""

    def __init__(self) -> None:
        self.sequences: dict[Key, bytes] = {}

    def extended(self, prompt: bytes) -> tuple[Key | None, int]:
        whole = [(len(s), key) for key, s in self.sequences.items() if prompt.startswith(s)]
        length, key = max(whole, default=(0, None))
        return key, length

    def common(self, prompt: bytes) -> int:
        return max((naive_common(s, prompt) for s in self.sequences.values()), default=0)


# Long runs of few tokens: prefixes, equal sequences and forks in the middle are all likely.
RUNS = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 40)), min_size=1, max_size=6)
SEQUENCES = RUNS.map(lambda runs: packed(*(token for token, n in runs for _ in range(n))))


@given(sequences=st.lists(SEQUENCES, max_size=30), prompts=st.lists(SEQUENCES, max_size=10))
def test_lineage_agrees_with_an_exhaustive_search(
    sequences: list[bytes], prompts: list[bytes]
) -> None:
    lineage, naive = Lineage(), Naive()
    for number, sequence in enumerate(sequences):
        lineage.add((number, 0), sequence)
        naive.sequences[number, 0] = sequence
    for prompt in [*prompts, *sequences]:
        relation = lineage.relation(prompt)
        assert (relation.parent, relation.extends) == naive.extended(prompt)
        assert relation.common == naive.common(prompt)
        if relation.nearest is not None:
            nearest = naive.sequences[relation.nearest]
            assert naive_common(nearest, prompt) == relation.common


@given(
    sequences=st.lists(SEQUENCES, max_size=30),
    prompts=st.lists(SEQUENCES, max_size=10),
    recent=st.integers(1, 4),
    loaded=st.integers(0, 10),
)
def test_lineage_finds_the_parent_by_digest(
    sequences: list[bytes], prompts: list[bytes], recent: int, loaded: int
) -> None:
    lineage, naive = Lineage(recent), Naive()
    for number, sequence in enumerate(sequences):
        naive.sequences[number, 0] = sequence
        if number < loaded:
            lineage.add_digest((number, 0), len(sequence), digest_of(sequence))
        else:
            assert lineage.add((number, 0), sequence) == digest_of(sequence)
    for prompt in [*prompts, *sequences]:
        relation = lineage.relation(prompt)
        assert (relation.parent, relation.extends) == naive.extended(prompt)
        assert relation.extends <= relation.common <= naive.common(prompt)


@given(SEQUENCES, SEQUENCES)
@example(packed(1), packed(257))  # the same first byte is not the same token
def test_common_prefix_counts_whole_tokens_in_either_order(one: bytes, other: bytes) -> None:
    assert common_prefix(one, other) == common_prefix(other, one) == naive_common(one, other)


def chain(turns: int) -> Sequence[tuple[bytes, bytes]]:
    """(prompt, sequence) of each turn."""
    found, history = [], b""
    for turn in range(turns):
        prompt = history + packed(1, turn, 2)
        history = prompt + packed(3, turn, 4, 5)
        found.append((prompt, history))
    return found


def test_lineage_keeps_a_long_conversation_once() -> None:
    lineage = Lineage()
    for turn, (prompt, sequence) in enumerate(chain(300)):
        assert parent(lineage, prompt) == (((turn - 1, 0), 28 * turn) if turn else None)
        lineage.add((turn, 0), sequence)
    assert lineage.kept == 300 * 7 * 4


def test_lineage_memory_is_bounded_for_many_conversations() -> None:
    lineage = Lineage(recent=3)
    for number in range(50):
        lineage.add((number, 0), packed(number, *range(100)))
    assert lineage.kept == 3 * 101 * 4
    assert parent(lineage, packed(7, *range(100), 1)) == ((7, 0), 404)
    assert parent(lineage, packed(49, 0, 1, 9)) == ((49, 0), 12)
    assert parent(lineage, packed(7, 0, 1, 9)) is None


def test_lineage_finds_the_parent_among_loaded_digests() -> None:
    turns, lineage = chain(200), Lineage()
    for turn, (_, sequence) in enumerate(turns[:-1]):
        lineage.add_digest((turn, 0), len(sequence), digest_of(sequence))
    assert lineage.kept == 0
    assert parent(lineage, turns[-1][0]) == ((198, 0), len(turns[-2][1]))
    lineage.add((199, 0), turns[-1][1])
    assert parent(lineage, turns[-1][1] + packed(8)) == ((199, 0), len(turns[-1][1]))
    assert parent(lineage, turns[100][0] + packed(8)) == ((99, 0), len(turns[99][1]))


def test_lineage_relates_a_resampled_turn_as_a_sibling() -> None:
    lineage = Lineage()
    lineage.add((0, 0), packed(1, 2))
    lineage.add((1, 0), packed(1, 2, 3, 4))
    relation = lineage.relation(packed(1, 2, 3))
    assert relation == Relation((0, 0), 8, (1, 0), 12)
    lineage.add((2, 0), packed(1, 2, 3, 5))
    assert parent(lineage, packed(1, 2, 3, 5, 6)) == ((2, 0), 16)
    assert parent(lineage, packed(1, 2, 3, 4, 6)) == ((1, 0), 16)


def test_lineage_prefers_the_latest_of_equal_sequences() -> None:
    lineage = Lineage()
    for number in range(3):
        lineage.add((number, 0), packed(1, 2))
    assert parent(lineage, packed(1, 2, 3)) == ((2, 0), 8)


def test_lineage_finds_no_parent_without_a_common_prefix() -> None:
    lineage = Lineage()
    assert parent(lineage, packed(1)) is None
    lineage.add((0, 0), b"")
    lineage.add((1, 0), packed(1, 2))
    assert parent(lineage, packed(2, 1)) is None
    assert parent(lineage, b"") is None
    assert lineage.relation(b"") == Relation(None, 0, None, 0)


def test_lineage_digests_have_a_fixed_size() -> None:
    assert {len(digest_of(packed(*range(n)))) for n in range(200)} == {DIGEST_SIZE}
