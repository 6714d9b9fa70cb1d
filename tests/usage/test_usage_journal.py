"""Calls in flight at a gateway's death are in the books once another one has looked."""

import asyncio
import os
import resource
import shutil
import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack, closing
from pathlib import Path
from signal import SIGKILL, SIGTERM

import msgspec
import pytest
from gateway_plugins.usage.journal.file import (
    HEADER,
    MAX_KEY_BYTES,
    NAMES_AT,
    NOT_ENDED,
    NOTED_AT,
    SLOT,
    STEP,
    UNKNOWN,
    WORKER_AT,
    Ended,
    Journal,
    Noted,
    Slot,
    read,
    try_lock,
)
from gateway_plugins.usage.journal.in_flight import Flight
from gateway_plugins.usage.journal.recovery import (
    MAX_JOURNAL_BYTES,
    UNREADABLE_SUFFIX,
    Recovery,
    journals_of,
)
from gateway_plugins.usage.ledger.model_names import OTHER, Models
from gateway_plugins.usage.ledger.row import ERROR, SUCCESS, Ledger, Row, insert
from gateway_plugins.usage.ledger.schema import MIGRATIONS
from hypothesis import given
from hypothesis import strategies as st
from support.callers.raw_client import RawClient, head_of
from support.gateways.capturing import chat
from support.gateways.serving_process import serving
from support.plugins.recording_plugin import until

from gateway import Attempt, Config, Gateway, Storage
from gateway.config import StorageSettings, Worker
from gateway.simulator import Simulator, SimulatorConfig
from gateway.storage.sqlite.file import open_for_writing
from gateway.testing import NO_PROBES, GatewayFor, make_call

CHAT = "/v1/chat/completions"
CALL = Noted(bytes(range(16)), 1_795_262_400.5, "ada", "sim", "eval", "w0", 12, 34)


def begin(journal: Journal, call: Noted = CALL) -> Slot:
    """With what is known from the beginning."""
    known = (call.id, call.time, call.prompt_tokens, call.key, call.model, call.source)
    slot = journal.begin(*known, repeatable=call.repeatable)
    assert slot is not None
    return slot


def noted(path: Path) -> list[Noted]:
    """The calls in flight by that journal, all of which can be read."""
    content = path.read_bytes()
    assert content[:SLOT] == HEADER
    calls, senseless = read(content[SLOT:])
    assert not senseless
    return calls


def left(folder: Path, calls: Sequence[Noted], name: str = "gateway.db") -> Path:
    """The journal of a process that died with these calls in flight."""
    journal = Journal(folder / "begun", 1_000)
    for call in calls:
        slot = begin(journal, call)
        if call.worker:
            journal.note(slot, call.worker, call.completion_tokens, call.ended)
    [path] = journals_of(folder / "begun")
    dead = folder / f"{name}-calls-1-{len(list(folder.iterdir())):08x}"
    shutil.copy(path, dead)
    path.unlink()
    return dead


# a whole gateway


def configured(folder: Path, worker: str) -> Path:
    keys = [{"id": one, "token": f"key-{one}", "scopes": ["eval"]} for one in ("ada", "ben")]
    file = folder / "keys.json"
    file.write_bytes(msgspec.json.encode({"keys": keys}))
    file.chmod(0o600)
    auth = {"gateway_plugins.auth:Auth": {"keys_file": str(file)}}
    config = folder / "gateway.yaml"
    workers = [{"url": worker, "worker_id": "w0"}]
    plugins = [auth, "gateway_plugins.usage:KeyUsage"]
    database = str(folder / "gateway.db")
    settings = {"storage": {"path": database}, "workers": workers, "plugins": plugins}
    config.write_bytes(msgspec.json.encode(settings))
    return config


async def stream(client: RawClient, key: str) -> int:
    """Begin one that goes on for long, read some of it; the bytes of the request's body."""
    body = msgspec.json.encode(chat(ignore_eos=True, stream=True, max_tokens=2_000))
    headers = [
        (b"authorization", b"Bearer key-" + key.encode()),
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
    ]
    await client.send(head_of("POST", CHAT, headers) + body)
    assert b" 200 " in await client.reader.readline()
    await client.reader.readuntil(b"data: ")
    return len(body)


def rows_in(database: Path) -> list[Row]:
    query = f"SELECT {', '.join(Row._fields)} FROM usage_calls ORDER BY number"
    with closing(sqlite3.connect(database)) as db:
        return [Row(*row) for row in db.execute(query)]


async def test_next_gateway_counts_calls_in_flight_at_a_kill(tmp_path: Path) -> None:
    database = tmp_path / "gateway.db"
    async with Simulator(SimulatorConfig(itl=0.005)) as simulator:
        config = str(configured(tmp_path, simulator.url))
        async with serving("", "--config", config) as first, AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(first.client()) for _ in range(3)]
            keys = ("ada", "ben", "ada")
            sizes = [await stream(*ways) for ways in zip(clients, keys, strict=True)]
            [journal] = journals_of(database)
            await until(lambda: all(call.completion_tokens > 5 for call in noted(journal)))
            first.kill(SIGKILL)
            await first.ended()
        before = noted(journal)
        async with serving("", "--config", config) as second:
            await until(lambda: not journal.exists())
            second.kill(SIGTERM)
            await second.ended()
    rows = rows_in(database)
    assert sorted(row.key for row in rows) == ["ada", "ada", "ben"]
    assert {row[3:7] for row in rows} == {("sim", "w0", "eval", ERROR)}
    assert {row.prompt_tokens for row in rows} == {size // 4 for size in sizes}
    assert [row.completion_tokens for row in rows] == [call.completion_tokens for call in before]
    assert all(row.counted for row in rows)
    assert b"3 calls that a gateway had when it died" in second.log
    assert journals_of(database) == [], "an orderly end leaves none"


async def test_journal_holds_a_call_until_it_is_in_the_ledger(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    database = tmp_path / "gateway.db"
    async with Simulator(SimulatorConfig(itl=0.01)) as simulator:
        live = await gateway_for(
            "usage", workers=[simulator.url], storage=StorageSettings(path=str(database))
        )
        [path] = journals_of(database)
        assert path.stat().st_mode & 0o777 == 0o600
        assert noted(path) == []
        async with RawClient(*live.server.address) as client:
            await stream(client, "nobody")
            await until(lambda: [call.completion_tokens > 0 for call in noted(path)] == [True])
            [call] = noted(path)
        assert (call.key, call.model, call.source) == ("internal", "sim", "realtime")
        assert call.worker == live.gateway.workers.all[0].id
        await until(lambda: not noted(path))
        [row] = rows_in(database)
        assert (row.id, row.time) == (call.id, call.time)


async def test_journal_holds_a_call_that_waits_for_its_commit(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    database = tmp_path / "gateway.db"
    storage = StorageSettings(path=str(database), commit_timeout=0.05)
    live = await gateway_for("usage", storage=storage)
    [path] = journals_of(database)
    with closing(sqlite3.connect(database, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        assert (await live.client.post(CHAT, json=chat(max_tokens=1))).status_code == 200
        assert len(noted(path)) == 1
        db.execute("ROLLBACK")
    await until(lambda: not noted(path))
    assert len(rows_in(database)) == 1


async def test_journal_holds_no_call_that_is_not_counted(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await gateway_for("usage", storage=StorageSettings(path=str(tmp_path / "gateway.db")))
    [path] = journals_of(tmp_path / "gateway.db")
    assert (await live.client.get("/v1/usage")).status_code == 200
    assert not any(path.read_bytes()[SLOT:]), "no slot was ever used"
    assert (await live.client.post(CHAT, content=b'{"stream": tru')).status_code == 400
    await live.gateway.storage.flush()
    assert noted(path) == []
    assert (await live.client.post(CHAT, json=chat(max_tokens=1))).status_code == 200
    assert any(path.read_bytes()[SLOT:])


async def test_journal_is_not_created_for_a_store_in_memory(
    gateway_for: GatewayFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    live = await gateway_for("usage", storage=StorageSettings(path=":memory:"))
    assert live.gateway.storage.path.parent.parent == tmp_path
    assert journals_of(live.gateway.storage.path) == []


async def test_usage_counts_calls_if_the_journal_cannot_be_created(
    gateway_for: GatewayFor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = tmp_path / ("d" * 240)  # a name that has no room for the journal's
    live = await gateway_for("usage", storage=StorageSettings(path=str(database)))
    assert (await live.client.post(CHAT, json=chat(max_tokens=1))).status_code == 200
    assert len(rows_in(database)) == 1
    assert [one.message for one in caplog.records if "there is no journal" in one.message]


# the file

names = st.text(st.characters(exclude_categories=()), max_size=300)
tokens = st.integers(0, (1 << 64) - 1)
calls = st.builds(
    Noted,
    id=st.binary(min_size=16, max_size=16),
    time=st.floats(0, 4e9),
    key=names,
    model=names,
    source=st.sampled_from(("realtime", "batch", "eval")),
    worker=names,
    prompt_tokens=tokens,
    completion_tokens=tokens,
    ended=st.builds(
        Ended, st.integers(0, 2) | st.just(UNKNOWN), st.integers(0, 1), tokens, tokens, tokens
    ),
)
steps = st.lists(st.tuples(st.sampled_from(("begin", "begin", "note", "end")), calls), max_size=30)


def written(text: str, size: int) -> str:
    return text.encode(errors="replace")[:size].decode(errors="ignore")


def as_written(call: Noted, *, is_noted: bool) -> Noted:
    """What is to be read of it."""
    key, name = written(call.key, MAX_KEY_BYTES), call.model.encode(errors="replace")
    room = min(
        NOTED_AT
        - NAMES_AT
        - len(call.key.encode(errors="replace")[:MAX_KEY_BYTES])
        - len(call.source),
        255,
    )
    return call._replace(
        key=key,
        model=OTHER if len(name) > room else name.decode(),
        worker=written(call.worker, SLOT - WORKER_AT) if is_noted else "",
        ended=call.ended if is_noted else NOT_ENDED,
        completion_tokens=call.completion_tokens if is_noted else 0,
    )


def play(journal: Journal, steps: Sequence[tuple[str, Noted]]) -> list[Noted]:
    """What is in flight after these steps. No two calls have the same id."""
    underway: list[tuple[Slot, Noted, bool]] = []
    for number, (what, call) in enumerate(steps):
        if what == "begin":
            call = call._replace(id=number.to_bytes(16, "big"))
            underway.append((begin(journal, call), call, False))
        elif underway:
            slot, first, _ = underway.pop(call.prompt_tokens % len(underway))
            if what == "end":
                journal.end(slot)
                continue
            journal.note(slot, call.worker, call.completion_tokens, call.ended)
            told = first._replace(
                worker=call.worker, completion_tokens=call.completion_tokens, ended=call.ended
            )
            underway.append((slot, told, True))
    return [as_written(call, is_noted=is_noted) for _, call, is_noted in underway]


@given(steps, st.integers(0, 40 * SLOT), st.lists(st.tuples(st.integers(0, 20_000), st.binary())))
def test_journal_reads_only_calls_in_flight_even_if_damaged(
    steps: Sequence[tuple[str, Noted]], size: int, garbage: Sequence[tuple[int, bytes]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder, "gateway.db"), 1_000)
        expected = play(journal, steps)
        [path] = journals_of(Path(folder, "gateway.db"))
        assert sorted(noted(path)) == sorted(expected)
        content = bytearray(path.read_bytes()[SLOT:])
        journal.close()
    found, senseless = read(bytes(content[:size]))
    assert set(found) <= set(expected)
    assert senseless <= 1, "that in which it ends"
    for place, some in garbage:
        content[place : place + len(some)] = some
    begun = {call[:5] for call in expected}
    assert {call[:5] for call in read(bytes(content))[0]} <= begun


@given(st.binary(max_size=3 * SLOT))
def test_journal_reads_no_call_from_garbage(content: bytes) -> None:
    found, senseless = read(content)
    assert found == []
    assert senseless == sum(content[at] > 0 for at in range(0, len(content), SLOT))


def test_journal_reuses_a_slot_without_its_old_notes(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "gateway.db", 1)
    slot = begin(journal)
    journal.note(slot, "w0", 7)
    journal.end(slot)
    other = CALL._replace(id=bytes(16), worker="", completion_tokens=0)
    assert begin(journal, other) == slot
    [path] = journals_of(tmp_path / "gateway.db")
    assert noted(path) == [other]


def test_journal_ignores_a_partly_written_call(tmp_path: Path) -> None:
    content = bytearray(left(tmp_path, [CALL]).read_bytes()[SLOT : 2 * SLOT])
    content[8] ^= 1
    assert read(bytes(content)) == ([], 1)


def test_journal_grows_up_to_its_maximum_number_of_calls(tmp_path: Path) -> None:
    most = 2 * STEP + 3
    journal = Journal(tmp_path / "gateway.db", most)
    [path] = journals_of(tmp_path / "gateway.db")
    assert path.stat().st_size == STEP * SLOT
    slots = [begin(journal, CALL._replace(prompt_tokens=number)) for number in range(most)]
    assert journal.begin(*CALL[:2], 0, "", "", "") is None
    assert {call.prompt_tokens for call in noted(path)} == set(range(most))
    for slot in slots:
        journal.end(slot)
    journal.close()
    assert not path.exists()


def test_journal_stays_after_close_until_its_calls_have_ended(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "gateway.db", 9)
    slot = begin(journal)
    [path] = journals_of(tmp_path / "gateway.db")
    journal.close()
    assert journal.begin(*CALL[:2], 0, "", "", "") is None
    with path.open("rb+") as file:
        assert not try_lock(path, file.fileno()), "its process lives"
    journal.end(slot)
    assert not path.exists()


def test_is_locked_rejects_a_removed_or_replaced_file(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.touch()
    with path.open("rb") as file:
        assert try_lock(path, file.fileno())
        path.unlink()
        assert not try_lock(path, file.fileno())
        path.touch()
        assert not try_lock(path, file.fileno())


def test_journal_counts_unnoted_calls_while_the_disk_is_full(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flight = Flight(Journal(tmp_path / "gateway.db", 10 * STEP))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (STEP * SLOT, hard))  # as good as a full disk
    try:
        calls = [make_call() for _ in range(STEP + 9)]
        for call in calls:
            flight.begin(call, "ada")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert flight.unnoted == 10  # the header has a slot
    assert len([one for one in caplog.records if "cannot grow" in one.message]) == 1
    flight.begin(make_call(), "ada")
    assert flight.unnoted == 10
    flight.ended([bytes.fromhex(call.trace_id) for call in calls])


def test_flight_notes_the_worker_of_calls_in_flight_only(tmp_path: Path) -> None:
    workers = (Worker(url="http://127.0.0.1:1", worker_id="w0", models=("sim",)),)
    gateway = Gateway(Config(workers=workers, probes=NO_PROBES))
    flight = Flight(Journal(tmp_path / "gateway.db", 9))
    [path] = journals_of(tmp_path / "gateway.db")
    call, other = make_call(), make_call()
    for one in (call, other):
        flight.begin(one, "ada")
    del flight.underway[other]
    for one in (call, other):
        one.attempts.append(Attempt(gateway.workers.all[0], one.started))
    flight.note()
    assert sorted(one.worker for one in noted(path)) == ["", "w0"]
    flight.ended([bytes.fromhex(one.trace_id) for one in (call, other)])
    assert noted(path) == []


def test_ledger_reports_stored_and_lost_calls_as_ended() -> None:
    ledger, ended = Ledger(), list[bytes]()
    ledger.ended = ended.extend
    row = Row(CALL.id, 1.0, "ada", "sim", "w0", "eval", 0, 1, 2, 3, 4, 0)
    ledger.written([row, row._replace(id=b"b")])
    ledger.lost(row._replace(id=b"c"), ValueError())
    assert ended == [CALL.id, b"b", b"c"]


# what others left


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "gateway.db"


async def recovered(database: Path) -> int:
    """How many calls were counted of what is there."""
    storage = Storage(Config(storage=StorageSettings(path=str(database))), [MIGRATIONS])
    await storage.open()
    try:
        recovery = Recovery(storage, Models())
        await recovery.run_once()
        return recovery.counted
    finally:
        await storage.close()


def some(count: int) -> list[Noted]:
    return [CALL._replace(id=number.to_bytes(16, "big")) for number in range(count)]


async def test_recovery_counts_an_ended_call_by_its_outcome(database: Path) -> None:
    over = Ended(SUCCESS, 0b10, 17, 5, 3)
    first, second = some(2)
    left(database.parent, [first._replace(ended=over), second])
    assert await recovered(database) == 2
    told, estimated = rows_in(database)
    assert told[6:14] == (SUCCESS, 17, CALL.completion_tokens, 5, 3, 0, 1, 0)
    assert estimated[6:14] == (ERROR, CALL.prompt_tokens, CALL.completion_tokens, 0, 0, 1, 0, 0)


async def test_recovery_counts_a_call_whose_work_runs_again_as_an_attempt(database: Path) -> None:
    """Fault 7.1: the item of a batch that was in flight at a kill is requested once."""
    left(database.parent, [CALL._replace(repeatable=True)])
    assert await recovered(database) == 1
    [attempt] = rows_in(database)
    assert (attempt.outcome, attempt.repeated) == (ERROR, 1)
    with closing(open_for_writing(database, "process", [MIGRATIONS])) as db:
        [sums] = db.select("SELECT requests, errors, repeated, wasted_tokens FROM usage_totals")
    assert sums == (0, 0, 1, CALL.prompt_tokens + CALL.completion_tokens)


async def test_recovery_counts_calls_that_ended_right_before_a_kill(database: Path) -> None:
    async with Simulator() as simulator:
        config = str(configured(database.parent, simulator.url))
        async with serving("", "--config", config) as first:
            lines = [(b"authorization", b"Bearer key-ada"), (b"content-type", b"application/json")]
            body = msgspec.json.encode(chat())
            async with first.client() as client:
                answers = [await client.ask("POST", CHAT, lines, body) for _ in range(5)]
            first.kill(SIGKILL)
            await first.ended()
        used = [msgspec.json.decode(answer.body)["usage"] for answer in answers]
        await recovered(database)
    rows = sorted(rows_in(database), key=lambda row: row.time)
    assert [row.outcome for row in rows] == [SUCCESS] * 5
    assert [row.completion_tokens for row in rows] == [one["completion_tokens"] for one in used]
    assert [row.prompt_tokens for row in rows] == [one["prompt_tokens"] for one in used]


async def test_recovery_counts_each_call_once_in_concurrent_runs(database: Path) -> None:
    first = left(database.parent, some(700))
    again = left(database.parent, some(701))
    assert sum(await asyncio.gather(*[recovered(database) for _ in range(3)])) == 701
    rows = rows_in(database)
    assert len(rows) == 701
    expected = Row(CALL.id, CALL.time, "ada", "sim", "w0", "eval", ERROR, 12, 34, 0, 0, 1)
    assert {row._replace(id=CALL.id) for row in rows} == {expected}
    assert not first.exists()
    assert not again.exists()
    assert await recovered(database) == 0


async def test_recovery_keeps_the_row_of_a_committed_call(database: Path) -> None:
    assert await recovered(database) == 0
    row = Row(CALL.id, 1.0, "ada", "sim", "w0", "eval", 0, 1, 2, 3, 4, 0)
    with closing(open_for_writing(database, "process", [])) as db:
        assert insert(db, [row]) == 1
    left(database.parent, [CALL])
    assert await recovered(database) == 0
    assert rows_in(database) == [row]


async def test_recovery_ignores_the_journal_of_a_live_process(database: Path) -> None:
    journal = Journal(database, 9)
    slot = begin(journal)
    assert await recovered(database) == 0
    assert len(journals_of(database)) == 1
    journal.end(slot)
    journal.close()


async def test_recovery_removes_an_empty_journal(database: Path) -> None:
    empty = database.with_name("gateway.db-calls-7-00000007")
    empty.touch(0o600)
    assert await recovered(database) == 0
    assert not empty.exists()


async def test_recovery_counts_an_unserved_model_as_other(database: Path) -> None:
    calls = [CALL._replace(model="unserved", worker="", completion_tokens=0)]
    left(database.parent, calls)
    assert await recovered(database) == 1
    assert [row.model for row in rows_in(database)] == [OTHER]


async def test_recovery_sets_unreadable_journals_aside_and_counts_the_rest(
    database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torn = left(database.parent, some(3))
    with torn.open("rb+") as file:
        file.seek(2 * SLOT + 9)
        file.write(b"?")
    other = database.with_name("gateway.db-calls-7-0000000a")
    other.write_bytes(os.urandom(4_000))
    huge = database.with_name("gateway.db-calls-7-0000000b")
    huge.touch()
    os.truncate(huge, MAX_JOURNAL_BYTES + 1)
    assert await recovered(database) == 2
    assert journals_of(database) == []
    for path in (torn, other, huge):
        assert path.with_name(path.name + UNREADABLE_SUFFIX).exists()
        assert any(str(path) in one.getMessage() for one in caplog.records)
    assert len(rows_in(database)) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="files can be given away by root only")
async def test_recovery_ignores_a_journal_of_another_user(database: Path) -> None:
    os.chown(left(database.parent, [CALL]), 12_345, 12_345)
    assert await recovered(database) == 0
    assert len(journals_of(database)) == 1


async def test_recovery_ignores_folders_pipes_and_links(
    database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, pipe, link = (
        database.with_name(f"gateway.db-calls-7-0000000{number}") for number in range(3)
    )
    folder.mkdir()
    os.mkfifo(pipe)
    link.symlink_to(left(database.parent, [CALL], name="elsewhere"))
    async with asyncio.timeout(20):
        assert await recovered(database) == 0
    assert len(journals_of(database)) == 3
    assert len([one for one in caplog.records if "cannot be counted" in one.message]) == 3
