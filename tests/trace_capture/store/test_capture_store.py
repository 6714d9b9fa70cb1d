"""What was recorded comes back whole, however it is encoded against earlier traces."""

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway_plugins.trace_capture.answers.assembly import assemble
from gateway_plugins.trace_capture.recording.public_trace import trace_of
from gateway_plugins.trace_capture.store import queries, row_encoder
from gateway_plugins.trace_capture.store.row_decoder import UnreadableRow
from hypothesis import given, settings
from hypothesis import strategies as st
from support.records.trace_records import File, Turn, body_of, opened, record_of

from gateway import Database, Trace


@pytest.fixture
def file(tmp_path: Path) -> Iterator[File]:
    with opened(tmp_path) as one:
        yield one


def read(db: Database, session_id: str = "s") -> list[Trace]:
    return list(queries.select(db, queries.TraceFilter(session_ids=(session_id,))))


def without_lineage(trace: Trace) -> Trace:
    """As it was before the writer knew what it comes from."""
    trace.divergence = trace.parent_id = trace.retry_of = None
    return trace


def conversation(length: int, session_id: str = "s") -> list[Turn]:
    """Each turn's prompt is all that came before it, and a few tokens more."""
    turns: list[Turn] = []
    prompt, messages = [1, 2, 3], [{"role": "user", "content": "hello"}]
    for number in range(length):
        sampled = [1000 + number, 2000 + number]
        turns.append(Turn(list(prompt), [sampled], list(messages), session_id))
        prompt += [*sampled, 7, number]
        messages += [
            {"role": "assistant", "content": f"{1000 + number}{2000 + number}"},
            {"role": "user", "content": f"and {number}?"},
        ]
    return turns


ids = st.lists(st.integers(0, 5), max_size=6)


@st.composite
def trees(draw: st.DrawFn) -> list[Turn]:
    """Turns that extend, leave, repeat or know nothing of earlier ones."""
    turns: list[Turn] = []
    for _ in range(draw(st.integers(1, 8))):
        prompt = list(draw(ids))
        if turns:
            old = draw(st.sampled_from(turns))
            whole = old.prompt + draw(st.sampled_from(old.completions))
            prompt = whole[: draw(st.integers(0, len(whole)))] + prompt
        words = [{"role": "user", "content": "x" * len(prompt)}] * (len(prompt) % 4)
        choices = draw(st.lists(ids.filter(bool), min_size=1, max_size=3))
        turns.append(Turn(prompt, choices, words, draw(st.sampled_from(["s", "s", "t", None]))))
    return turns


@settings(max_examples=80)
@given(trees(), st.data())
def test_trace_store_returns_any_tree_of_turns(turns: list[Turn], data: st.DataObject) -> None:
    """In groups of any size, with restarts in between."""
    records = [record_of(turn) for turn in turns]
    with tempfile.TemporaryDirectory() as folder, opened(Path(folder)) as file:
        stored = 0
        while stored < len(records):
            size = data.draw(st.integers(1, 4))
            file.store(records[stored : stored + size])
            stored += size
            if data.draw(st.booleans()):
                file.restart()
        found = list(queries.select(file.db, queries.TraceFilter()))
    assert [without_lineage(one) for one in found] == [
        without_lineage(trace_of(one)) for one in records
    ]


def test_trace_store_keeps_only_what_a_turn_adds(file: File) -> None:
    """Of turn n only what is new is kept, in tokens and in text."""
    random.seed(1)
    long = [random.randrange(100_000) for _ in range(20_000)]
    text = "".join(random.choices("abcdefghij", k=50_000))
    first = Turn(long, [[5]], [{"role": "user", "content": text}])
    more = [*first.messages, {"role": "assistant", "content": "5"}]
    second = Turn([*long, 5, 6], [[7]], [*more, {"role": "user", "content": "6"}])
    file.store([record_of(first)])
    file.store([record_of(second)])
    sizes = [n for (n,) in file.db.select("SELECT length(content) FROM traces ORDER BY number")]
    assert sizes[0] > 50_000
    assert sizes[1] < 1_000


def test_trace_store_reads_and_continues_a_long_session_after_a_restart(
    file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past the depth at which a row stands by itself, and from the file after a restart."""
    monkeypatch.setattr(row_encoder, "MAX_DEPTH", 5)
    turns = conversation(40)
    for turn in turns[:20]:
        file.store([record_of(turn)])
    file.restart()
    file.store([record_of(turn) for turn in turns[20:]])
    found = read(file.db)
    assert [one.prompt_token_ids for one in found] == [turn.prompt for turn in turns]
    assert [one.messages for one in found] == [turn.messages for turn in turns]
    assert [one.parent_id for one in found] == [None, *(one.trace_id for one in found[:-1])]
    assert max(depth for (depth,) in file.db.select("SELECT depth FROM traces")) == 5


def test_trace_store_records_the_place_of_a_divergence(file: File) -> None:
    first = Turn([1, 2, 3], [[4, 5, 6]])
    file.store([record_of(first), record_of(Turn([1, 2, 3, 4, 9, 6, 7], [[8]]))])
    [one, other] = read(file.db)
    assert other.parent_id == one.trace_id
    assert other.divergence is not None
    assert (other.divergence.trace_id, other.divergence.at) == (one.trace_id, 4)
    assert (other.divergence.expected_id, other.divergence.found_id) == (5, 9)
    assert other.divergence.expected_text == "5"


@pytest.mark.parametrize("restarted", [False, True])
def test_trace_store_links_a_retry_to_the_first_attempt(file: File, restarted: bool) -> None:
    turn = Turn([1], [[2]], [{"role": "user", "content": "x"}])
    again = Turn([1], [[3]], turn.messages, retried=True)
    file.store([record_of(turn), record_of(again)])
    if restarted:
        file.restart()
    file.store([record_of(again)])
    first, second, third = read(file.db)
    assert (first.retry_of, second.retry_of) == (None, first.trace_id)
    assert third.retry_of == first.trace_id
    assert second.divergence is None


@pytest.mark.parametrize("restarted", [False, True])
def test_retry_after_a_failure_that_the_caller_was_told_is_a_sample_of_its_own(
    file: File, restarted: bool
) -> None:
    """Of four calls for samples of one request one is refused and one is cut; both ask again."""
    turn = Turn([1], [[2]], [{"role": "user", "content": "x"}])
    again = Turn([1], [[3]], turn.messages, retried=True)
    sample, refused, cut, other, first, second = (
        record_of(one) for one in (turn, turn, turn, turn, again, again)
    )
    for one in (sample, other, first, second):
        one.head.delivered = True
    refused.head.status = 429
    cut.head.caller_gone = True
    file.store([sample, refused, cut, other])
    if restarted:
        file.restart()
    file.store([first, second])
    assert [one.retry_of for one in read(file.db)] == [None] * 5 + [cut.trace_id]


@pytest.mark.parametrize("restarted", [False, True])
def test_trace_store_skips_a_call_without_samples_as_parent(file: File, restarted: bool) -> None:
    """What is asked again after it does not extend it."""
    file.store([record_of(Turn([1, 2], [[3]])), record_of(Turn([1, 2, 3, 4], [[]]))])
    if restarted:
        file.restart()
    file.store([record_of(Turn([1, 2, 3, 4], [[5]]))])
    first, _, again = read(file.db)
    assert again.parent_id == first.trace_id


def test_trace_store_keeps_logprobs_that_float32_would_change(file: File) -> None:
    turn = Turn([1], [[2, 3]])
    record = record_of(turn)
    body = body_of(turn).replace(b"-0.5", b"-0.1234567890123", 1)
    record.answer = assemble("/v1/chat/completions", body, streamed=False)
    file.store([record])
    assert read(file.db)[0].logprobs == [-0.1234567890123, -0.5]


def test_trace_store_keeps_a_session_if_an_equal_one_is_deleted(file: File) -> None:
    for session_id in ("s", "t"):
        file.store([record_of(turn) for turn in conversation(3, session_id)])
    queries.delete_sessions(file.db, ["s"])
    assert read(file.db) == []
    assert [one.prompt_token_ids for one in read(file.db, "t")] == [
        turn.prompt for turn in conversation(3)
    ]


def test_trace_store_encodes_no_trace_against_a_deleted_one(file: File) -> None:
    turns = conversation(4)
    file.store([record_of(turn) for turn in turns[:2]])
    queries.delete_sessions(file.db, ["s"])
    file.sink.invalidate_cache()
    file.store([record_of(turn) for turn in turns[2:]])
    assert [one.prompt_token_ids for one in read(file.db)] == [turn.prompt for turn in turns[2:]]


def test_trace_store_notices_a_deletion_by_another_process(file: File, tmp_path: Path) -> None:
    turns = conversation(4)
    file.store([record_of(turn) for turn in turns[:2]])
    with opened(tmp_path) as other:
        queries.delete_sessions(other.db, ["s"])
    file.store([record_of(turn) for turn in turns[2:]])
    assert [one.prompt_token_ids for one in read(file.db)] == [turn.prompt for turn in turns[2:]]


def test_trace_store_shares_a_session_between_two_writers(file: File, tmp_path: Path) -> None:
    """Each notices what the other wrote: turn n, written by one, extends n-1 of the other."""
    turns = conversation(10)
    with opened(tmp_path) as other:
        for number, turn in enumerate(turns):
            (file, other)[number % 2].store([record_of(turn)])
    found = read(file.db)
    assert [one.prompt_token_ids for one in found] == [turn.prompt for turn in turns]
    assert [one.parent_id for one in found] == [None, *(one.trace_id for one in found[:-1])]


def test_trace_store_counts_the_traces_of_a_session(file: File) -> None:
    file.store([record_of(turn) for turn in conversation(3)])
    file.store([record_of(turn) for turn in conversation(2)])
    rows = file.db.select("SELECT traces, incomplete, lost FROM sessions")
    assert list(rows) == [(5, 0, 0)]


def test_trace_store_raises_if_the_base_of_a_trace_is_missing(file: File) -> None:
    file.store([record_of(turn) for turn in conversation(2)])
    file.db.execute("DELETE FROM traces WHERE number = 1")
    with pytest.raises(UnreadableRow, match="its base, the trace number 1, is missing"):
        read(file.db)


@pytest.mark.parametrize("blob", [b"", b"\x00", b"\x01garbage", b"\x00\x93\xc0\xc0\xc0"])
def test_trace_store_raises_on_a_damaged_row(file: File, blob: bytes) -> None:
    file.store([record_of(conversation(1)[0])])
    file.db.execute("UPDATE traces SET content = :blob", {"blob": blob})
    with pytest.raises(UnreadableRow, match="cannot be read"):
        read(file.db)


@pytest.mark.parametrize("number", [1, 2])
def test_trace_store_encodes_no_trace_against_a_damaged_row(file: File, number: int) -> None:
    """Its session goes on after a restart, and nothing new has it as a base."""
    turns = conversation(4)
    file.store([record_of(turn) for turn in turns[:2]])
    file.db.execute("UPDATE traces SET content = x'01' WHERE number = :n", {"n": number})
    file.restart()
    tally = file.store([record_of(turn) for turn in turns[2:]])
    assert (tally.committed, tally.lost) == (2, 0)
    file.db.execute("DELETE FROM traces WHERE number <= 2")
    found = read(file.db)
    assert [one.prompt_token_ids for one in found] == [turn.prompt for turn in turns[2:]]


def test_trace_queries_return_all_traces_page_by_page(file: File) -> None:
    file.store([record_of(turn) for turn in conversation(7)])
    wanted = queries.TraceFilter(session_ids=("s",))
    everything = [one.trace_id for one in queries.select(file.db, wanted)]
    pages: list[str] = []
    cursor: str | None = None
    while len(pages) < 7:
        last = queries.last_of_page(file.db, wanted, after=cursor, limit=3)
        pages += [one.trace_id for one in queries.select(file.db, wanted, after=cursor, limit=3)]
        cursor = last
    assert (pages, cursor) == (everything, None)
    with pytest.raises(LookupError):
        list(queries.select(file.db, wanted, after="nobody"))
