"""The table that processes share: whose rows are whose, which give way, and who may change them."""

import errno
import fcntl
import math
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from struct import Struct
from tempfile import mkdtemp

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway import SharedTable
from gateway.cluster import shared_table

ROUNDS = 3_000
KEYS = st.integers(0, 200).map(str)
HELD = math.inf
TWO, NUMBER = Struct("=2d"), Struct("=d")


def since(row: bytes) -> float:
    found: float = TWO.unpack_from(row)[0]
    return found


def table_at(path: Path) -> SharedTable:
    """Rows of a time of rest and a number."""
    return SharedTable(path, TWO.size, since, sets=4)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "table"


@pytest.fixture
def table(path: Path) -> Iterator[SharedTable]:
    found = table_at(path)
    yield found
    found.close()


def put(table: SharedTable, key: str, *values: float) -> bool:
    """Whether there was room for it."""
    row = table.row(key)
    with row:
        row.write(TWO, values)
        return row.read(TWO) is not None


def got(table: SharedTable, key: str) -> tuple[float, ...] | None:
    row = table.row(key)
    with row:
        return row.read(TWO)


class Sharing(RuleBasedStateMachine):
    """Three processes' tables on one file; rows in use stay as they are, whoever looks."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(mkdtemp())
        self.tables = [table_at(self.folder / "table") for _ in range(3)]
        self.held: dict[str, float] = {}

    @rule(which=st.integers(0, 2), key=KEYS, number=st.integers(1, 1 << 40))
    def take(self, which: int, key: str, number: int) -> None:
        if put(self.tables[which], key, HELD, number):
            self.held[key] = number
        else:
            assert key not in self.held

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 2), data=st.data(), since=st.floats(0, 1))
    def give(self, which: int, data: st.DataObject, since: float) -> None:
        key = data.draw(st.sampled_from(sorted(self.held)))
        del self.held[key]
        assert put(self.tables[which], key, since, 0)

    @rule(which=st.integers(0, 2))
    def reopen(self, which: int) -> None:
        self.tables[which].close()
        self.tables[which] = table_at(self.folder / "table")

    @rule(which=st.integers(0, 2))
    def add_to_all(self, which: int) -> None:
        for row in self.tables[which].in_use():
            [number] = row.read(NUMBER, 8) or [-1]
            row.write(NUMBER, [number + 1], 8)
        self.held = {key: number + 1 for key, number in self.held.items()}

    @invariant()
    def holds_what_is_in_use(self) -> None:
        for table in self.tables:
            for key, number in self.held.items():
                assert got(table, key) == (HELD, number)

    def teardown(self) -> None:
        for table in self.tables:
            table.close()
        shutil.rmtree(self.folder, ignore_errors=True)


TestSharing = Sharing.TestCase
TestSharing.settings = settings(max_examples=25, stateful_step_count=30)


def test_table_evicts_the_row_idle_longest(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = SharedTable(path, TWO.size, since, sets=1)
    for number in range(shared_table.ROWS_PER_SET):
        assert put(table, f"key {number}", HELD, number)
    assert got(table, "more") is None
    assert not put(table, "and more", 1, 1)
    assert caplog.text.count("too many are in use") == 1, "it is told once"
    put(table, "key 3", 20, 3)
    put(table, "key 5", 10, 5)
    assert got(table, "more") == (0, 0), "a new row has forgotten the one before"
    assert put(table, "more", HELD, 7)
    assert got(table, "key 3") == (20, 3)
    assert put(table, "key 5", HELD, 8)
    assert got(table, "key 3") is None, "now it has given way as well"
    assert got(table, "more") == (HELD, 7)
    table.close()


def test_table_keeps_rows_that_become_idle_in_the_future(path: Path) -> None:
    table = SharedTable(path, TWO.size, since, sets=1)
    for number in range(shared_table.ROWS_PER_SET):
        assert put(table, str(number), 1e12, number)
    assert got(table, "more") is None
    table.close()


def test_table_accepts_any_key(table: SharedTable) -> None:
    for number, key in enumerate(("", "\0", "é" * 10_000, "\ud800"), 1):
        assert put(table, key, HELD, number)
        assert got(table, key) == (HELD, number)


def test_closed_table_has_no_rows(table: SharedTable) -> None:
    row = table.row("key")
    with row:
        table.close()
    assert got(table, "key") is None


def test_table_file_uses_disk_only_for_used_rows(path: Path) -> None:
    table = SharedTable(path, 160, since)
    assert path.stat().st_size > 40_000_000
    put(table, "key", HELD, 0)
    assert path.stat().st_blocks * 512 < 100_000
    table.close()


def test_table_survives_a_full_disk(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    table = table_at(path)
    monkeypatch.setattr(os, "pwrite", lambda *_: 0)
    assert got(table, "key") is None
    assert os.strerror(errno.ENOSPC) in caplog.text
    monkeypatch.undo()
    assert put(table, "key", HELD, 1)
    table.close()
    monkeypatch.setattr(os, "pwrite", lambda *_: 0)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        table_at(path.with_name("another"))


def forked(work: Callable[[], None]) -> int:
    """The id of a process of its own that does that, and ends."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
        os._exit(0)
    finally:
        os._exit(1)


def ended(pid: int) -> int:
    """Its exit status, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_table_serializes_row_updates_across_processes(path: Path) -> None:
    def count() -> None:
        row = table_at(path).row("count")
        for _ in range(ROUNDS):
            with row:
                [number] = row.read(NUMBER, TWO.size - NUMBER.size) or [-1]
                row.write(TWO, (HELD, number + 1))

    processes = [forked(count) for _ in range(3)]
    assert [ended(one) for one in processes] == [0, 0, 0]
    table = table_at(path)
    assert got(table, "count") == (HELD, 3 * ROUNDS)
    table.close()


def is_locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def test_killed_process_leaves_no_row_lock(path: Path, table: SharedTable) -> None:
    inside, says = os.pipe()

    def hold() -> None:
        with table_at(path).row("key"):
            os.write(says, b"in")
            time.sleep(20)

    process = forked(hold)
    files = [os.open(one, os.O_RDWR) for one in path.parent.glob("*.lock*")]
    try:
        assert os.read(inside, 2) == b"in"
        assert sum(map(is_locked, files)) == 1
    finally:
        os.kill(process, signal.SIGKILL)
        for one in (*files, inside, says):
            os.close(one)
    assert ended(process) == -signal.SIGKILL
    assert got(table, "key") == (0, 0)


def test_stopped_process_loses_its_row_lock_and_writes_nothing_stale(
    path: Path, table: SharedTable, caplog: pytest.LogCaptureFixture
) -> None:
    inside, says = os.pipe()

    def hold() -> None:
        row = table_at(path).row("key", lambda: row.write(NUMBER, (7,), NUMBER.size))
        with row:
            os.write(says, b"in")
            signal.raise_signal(signal.SIGSTOP)
            row.write(TWO, (HELD, 1))

    process = forked(hold)
    assert os.read(inside, 2) == b"in"
    assert put(table, "key", HELD, 2), "it does not wait for the stopped process"
    assert f"process {process} has kept a lock" in caplog.text
    os.kill(process, signal.SIGCONT)
    assert ended(process) == 0
    assert got(table, "key") == (HELD, 7), "what it alone knows is written, nothing else"
    assert put(table, "key", HELD, 3)
    for one in (inside, says):
        os.close(one)


def test_processes_that_lose_a_lock_again_and_again_agree_on_the_next(path: Path) -> None:
    """One of three is stopped at random moments; the rows of the others stay exact."""
    stop = time.monotonic() + 1.5

    def count(key: str) -> None:
        row, number = table_at(path).row(key), 0
        while time.monotonic() < stop:
            number += 1
            with row:
                [before] = row.read(NUMBER, NUMBER.size) or [-1]
                assert before == number - 1
                row.write(TWO, (HELD, number))

    def stumble() -> None:
        row = table_at(path).row("one")
        while time.monotonic() < stop:
            with row:
                pass

    steady = [forked(lambda key=key: count(key)) for key in ("one", "two")]  # type: ignore[misc]
    victim = forked(stumble)
    while time.monotonic() < stop - 0.5:
        os.kill(victim, signal.SIGSTOP)
        time.sleep(0.4)
        os.kill(victim, signal.SIGCONT)
    assert [ended(one) for one in (*steady, victim)] == [0, 0, 0]
