"""What is read of the queue: texts as they are stored, places, damaged rows."""

import contextlib

import pytest
from gateway_plugins.batch.queue import reading
from gateway_plugins.batch.queue.items import ItemError, error_of
from gateway_plugins.batch.queue.reading import MAX_COUNTED, Wanted
from gateway_plugins.batch.queue.texts import MAX_TEXT, pack, unpack
from hypothesis import given
from hypothesis import strategies as st
from support.records.a_queue import AQueue


@pytest.fixture
def queue() -> AQueue:
    return AQueue()


@given(st.binary(max_size=2_000) | st.binary(max_size=40).map(lambda one: one * 100))
def test_stored_text_is_the_text(text: bytes) -> None:
    assert unpack(pack(text)) == text
    assert len(pack(text)) <= len(text) + 1


@given(st.binary(max_size=200) | st.binary(max_size=50).map(lambda one: pack(b"x" * 500) + one))
def test_damaged_text_is_told_by_a_value_error(stored: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(unpack(stored), bytes)


def test_text_that_claims_to_be_larger_than_any_memory_is_refused() -> None:
    frame = b"\x28\xb5\x2f\xfd\xe0" + (MAX_TEXT * 1_000).to_bytes(8, "little")
    with pytest.raises(ValueError, match="not a packed text"):
        unpack(b"\1" + frame + b"\x01\x00\x00")


@given(st.text())
def test_damaged_error_is_shown_as_it_is(text: str) -> None:
    assert error_of('{"code": "a", "message": "b"}') == ItemError("a", "b")
    assert error_of(text) == ItemError("unreadable", text)


def place(queue: AQueue, item_id: str) -> int:
    return reading.place_of(queue.db, queue.item(item_id))


def test_place_counts_what_comes_first_in_the_order(queue: AQueue) -> None:
    mine = queue.submit("ada", items=10)
    queue.submit("ada", model="another", items=10)
    queue.submit("ada", priority=1, items=3)
    queue.submit("ada", priority=-1, items=50)
    assert [place(queue, one) for one in (mine[0], mine[9])] == [3, 12]
    queue.submit("bob", items=100)
    queue.submit("eve", items=2)
    assert place(queue, mine[0]) == 3 + 2, "one of each other key may come before"
    assert place(queue, mine[9]) == 12 + 10 + 2


def test_place_in_a_long_lane_is_estimated(queue: AQueue) -> None:
    ids = queue.submit(items=3 * MAX_COUNTED)
    assert place(queue, ids[MAX_COUNTED - 1]) == MAX_COUNTED - 1
    assert place(queue, ids[-1]) == 3 * MAX_COUNTED - 1
    process = queue.process()
    queue.claim(process, 100, 100)
    assert place(queue, ids[-1]) == 3 * MAX_COUNTED - 101


def test_items_are_listed_without_reading_those_of_others(queue: AQueue) -> None:
    """SQLite counts the steps that it takes."""
    queue.submit("many", items=30_000)
    few = queue.submit("few", items=5)
    queue.submit("many", model="other", items=30_000)
    steps = [0]
    queue.db.raw.set_progress_handler(lambda: steps.__setitem__(0, steps[0] + 1), 100)  # type: ignore[attr-defined]
    for wanted in (
        Wanted(owner="few"),
        Wanted(owner="few", state=0),
        Wanted(model="m", state=2),
        Wanted(state=1),
        Wanted(owner="nobody"),
    ):
        found = reading.items_of(queue.db, wanted, 20)
        assert [one.id for one in found] == (few[::-1] if wanted.owner == "few" else [])
    assert place(queue, few[-1]) == 4 + 5
    assert steps[0] < 100
