"""How the benchmark meters systems, leaves rounds out, and compares the gateway with itself."""

import contextlib
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from bench.builds import PRESENT, UNCOMPILED, Build, at, build_of
from bench.conduct import Plan, tasks_of
from bench.found import Found, Machine, Readings
from bench.meter import Meter, Processor, Spent, Used, processor_of, used
from bench.peers import PEERS
from bench.processes import OTHERS, pinned
from bench.programs import build
from bench.report import Report, report_of
from bench.rows import BESIDE_LONG, GATEWAY, PACED, PLAIN, QUEUED, ROWS
from bench.running import running, workers
from bench.systems import Place, System, named
from bench.table import text_of
from bench.works import Calls, Reading
from hypothesis import given
from hypothesis import strategies as st
from support.paths import ROOT
from support.ports import free_port

import gateway
from gateway import ConfigError


def found_of(*readings: Readings, builds: tuple[str, ...] = ()) -> Found:
    return Found(
        date="2026-01-01T00:00:00+00:00",
        machine=Machine("a processor", 2, "6.1", "3.11"),
        rounds=3,
        seconds=4.0,
        rows=[row.name for row in ROWS],
        builds=[*builds],
        readings=[*readings],
    )


def report(*readings: Readings, builds: tuple[str, ...] = ()) -> Report:
    return report_of(found_of(*readings, builds=builds), ROWS)


def words(text: str, beginning: str) -> list[str]:
    """Those of the one line that begins so, whatever the widths of its columns."""
    lines = [line.split() for line in text.splitlines()]
    [found] = [line for line in lines if " ".join(line).startswith(beginning)]
    return found


# rounds that are of no use


@pytest.mark.parametrize(
    ("busy", "gap_p99", "measured", "faults"),
    [
        (0.90, 30.0, True, 0),
        (0.96, 30.0, True, 1),
        (0.90, 61.0, True, 1),
        (0.96, 61.0, True, 2),
        (0.96, 30.0, False, 0),  # there is no system on the processor
        (None, None, True, 0),
    ],
)
def test_paced_work_is_useless_if_the_processor_was_full_or_events_were_late(
    busy: float | None, gap_p99: float | None, measured: bool, faults: int
) -> None:
    reading = Reading(busy=busy, gap_p99=gap_p99)
    assert len([*PACED.faults(reading, measured=measured)]) == faults


@pytest.mark.parametrize("work", [PLAIN, BESIDE_LONG])
def test_work_that_fills_the_processor_by_design_is_not_useless(work: Calls) -> None:
    assert not [*work.faults(Reading(busy=1.0, gap_p99=100.0), measured=True)]


COSTS = st.lists(st.tuples(st.floats(1, 1e6), st.booleans()), min_size=1, max_size=5)


@given(COSTS)
def test_medians_leave_useless_rounds_out(costs: list[tuple[float, bool]]) -> None:
    readings = [Reading(per_event=cost, useless="late" if late else "") for cost, late in costs]
    kept = sorted(cost for cost, late in costs if not late)
    found = found_of(Readings(GATEWAY.name, PACED.name, readings))
    median = found.median(GATEWAY.name, PACED.name, "per_event")
    assert (median is None) == (not kept)
    assert median is None or kept[0] <= median <= kept[-1]
    assert sorted(found.values(GATEWAY.name, PACED.name, "per_event")) == kept
    assert len([*found.useless()]) == len(costs) - len(kept)


def test_report_marks_medians_without_some_rounds_and_says_why() -> None:
    good, bad = Reading(per_event=20.0), Reading(per_event=5.0, useless="gap p99 70 ms")
    text = text_of(
        report(
            Readings(GATEWAY.name, PACED.name, [good, bad, good]),
            Readings("smg", PACED.name, [bad]),
        )
    )
    assert "20.0†" in words(text, "gateway")
    assert "full" in words(text, "smg")
    assert "† gateway, paced: round 2 is left out: gap p99 70 ms" in text
    assert "† smg, paced: round 1 is left out: gap p99 70 ms" in text


def test_report_shows_the_loop_and_the_other_threads_of_the_gateway_alone() -> None:
    parts = Reading(per_call=3.0, loop_per_call=1.0, threads_per_call=2.0)
    text = text_of(
        report(Readings(GATEWAY.name, PLAIN.name, [parts]), Readings("smg", PLAIN.name, [parts]))
    )
    assert "1.00 + 2.00" in " ".join(words(text, "gateway"))
    assert "+" not in words(text, "smg")


def test_report_tells_the_spread_and_how_quiet_the_machine_was() -> None:
    costs = ((100.0, 0.01, 0.0), (140.0, 0.03, 0.2), (110.0, 0.02, 0.0))
    rounds = [Reading(per_call=cost, others=o, stolen=s) for cost, o, s in costs]
    text = text_of(report(Readings(GATEWAY.name, PLAIN.name, rounds)))
    assert "100 to 140" in text
    assert "other programs took 2.0% (3.0% at most)" in text
    assert "the machine below took 0.0% (20.0% at most)" in text


# what is metered


def test_processor_of_reads_the_line_of_one_processor() -> None:
    stat = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\ncpu1 100 200 300 400 50 6 7 8 0 0\n"
    found = processor_of(stat, 1)
    assert [round(seconds * 100) for seconds in found] == [600, 450, 8, 1071]


def test_spent_counts_other_programs_apart_from_the_system() -> None:
    first = Meter(Used(1.0, 0, 0.5, 0.5), Processor(10.0, 5.0, 1.0, 16.0))
    last = Meter(Used(3.0, 0, 2.0, 1.0), Processor(12.5, 5.5, 2.0, 20.0))
    spent = Spent.between(first, last)
    assert (spent.cpu, spent.loop, spent.threads) == (2.0, 1.5, 0.5)
    assert (spent.busy, spent.others, spent.stolen) == (0.875, 0.125, 0.25)


def test_used_tells_the_first_thread_from_the_others() -> None:
    code = (
        "import signal, threading, time\n"
        "def burn(seconds):\n"
        "    while time.thread_time() < seconds: pass\n"
        "def other():\n"
        "    burn(0.3)\n"
        "    print('burnt', flush=True)\n"
        "    signal.pause()\n"
        "burn(0.1)\n"
        "threading.Thread(target=other, daemon=True).start()\n"
        "signal.pause()"
    )
    with pinned([sys.executable, "-c", code], OTHERS) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"burnt\n"
        found = used(process.pid)
    assert 0.1 <= found.loop < 0.3 <= found.threads


# earlier builds


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    if shutil.which("git") is None:
        pytest.skip("there is no git")
    folder = tmp_path / "repository"
    folder.mkdir()
    git = ["git", "-C", str(folder), "-c", "user.name=me", "-c", "user.email=me@example.org"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    for content in ("one", "two"):
        (folder / "file").write_text(content)
        subprocess.run([*git, "add", "file"], check=True)
        subprocess.run([*git, "commit", "--quiet", "-m", content], check=True)
    return folder


def test_build_of_checks_out_the_commit_once(repository: Path, tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    first = build_of(programs, "HEAD~1", repository)
    assert (first.folder / "file").read_text() == "one"
    (first.folder / "file").write_text("as it was built")
    assert build_of(programs, first.name, repository) == first
    assert (first.folder / "file").read_text() == "as it was built"
    assert (repository / "file").read_text() == "two"


def test_build_runs_the_gateway_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "gateway").mkdir()
    (tmp_path / "gateway" / "__init__.py").touch()
    (tmp_path / "gateway" / "cli.py").write_text("def main(): print('gateway of long ago')")
    assert Build("abc", tmp_path).version() == "of long ago"
    assert PRESENT.version().startswith(gateway.__version__)


def test_build_of_begins_again_after_a_checkout_that_was_broken_off(
    repository: Path, tmp_path: Path
) -> None:
    one = build_of(tmp_path, "HEAD", repository)
    (one.folder / ".checked-out").unlink()
    (one.folder / "file").unlink()
    assert build_of(tmp_path, "HEAD", repository) == one
    assert (one.folder / "file").read_text() == "two"


def test_build_of_names_a_commit_that_does_not_exist(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="HEAD~7"):
        build_of(tmp_path, "HEAD~7", repository)


def test_earlier_build_runs_from_its_own_checkout(tmp_path: Path) -> None:
    one = at(Build("abc", Path("/builds/abc")), QUEUED)
    assert one.name == named(QUEUED.name, "abc")
    assert one.command is not None
    command = one.command(Place(tmp_path, 1, 2))
    assert command.environment["PYTHONPATH"] == "/builds/abc:/builds/abc/plugins"
    assert "max_in_flight_per_worker: 8" in command.configuration


def test_uncompiled_build_is_this_checkout_without_its_native_part(tmp_path: Path) -> None:
    [ours, other] = (system.command for system in (GATEWAY, at(UNCOMPILED, GATEWAY)))
    assert ours is not None
    assert other is not None
    place = Place(tmp_path, 1, 2)
    kernel = {"GATEWAY_KERNEL": "python"}
    assert other(place).environment == {**ours(place).environment, **kernel}


def test_plan_measures_earlier_builds_next_to_the_present_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("bench.conduct.build_of", lambda folder, ref: Build(ref, ROOT))
    rows = [row for row in ROWS if row.name in ("plain", "queued", "core")]
    plan = Plan(
        rows=rows,
        peers=(),
        refs=("a", "a"),
        uncompiled=True,
        rounds=1,
        seconds=1,
        programs=tmp_path,
        work=tmp_path,
    )
    found = found_of()
    assert [task.system.name for task in tasks_of(plan, found)] == [
        *("gateway", "gateway @ a", "gateway @ python"),
        *("gateway, queued", "gateway, queued @ a", "gateway, queued @ python"),
        "gateway, core alone",
    ]
    assert found.builds == ["a", "python"]
    assert [*found.versions] == ["gateway @ a", "gateway @ python"]


def test_report_shows_what_comes_of_an_earlier_build_for_each_line() -> None:
    made = report(
        Readings("vllm-router", PLAIN.name, [Reading(per_call=100.0)]),
        Readings(GATEWAY.name, PLAIN.name, [Reading(per_call=300.0)]),
        Readings(named(GATEWAY.name, "abc"), PLAIN.name, [Reading(per_call=700.0)]),
        builds=("abc",),
    )
    assert [one["plain"][0].outcome for one in (made.table, made.earlier["abc"])] == [3.0, 7.0]
    line = " ".join(words(text_of(made), "plain a plain call, captured 300 µs vllm-router"))
    assert line.endswith("vllm-router 100 µs 3.00 x 7.00 x 4.00 x yes")


# what stands before and behind


class Echo(BaseHTTPRequestHandler):
    """Answers with the call's own body and its connection, in one piece or in chunks."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        said = json.dumps([body.decode(), self.client_address[1]]).encode()
        self.send_response(200)
        if self.path == "/chunks":
            self.send_header("transfer-encoding", "chunked")
            said = b"".join(b"1\r\n%c\r\n" % byte for byte in said) + b"0\r\n\r\n"
        else:
            self.send_header("content-length", str(len(said)))
        if self.headers["connection"] == "close":
            self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: object) -> None: ...


@contextlib.contextmanager
def floor() -> Iterator[int]:
    """The port of the floor, before a worker that echoes."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_floor_passes_calls_on_over_connections_that_it_keeps(tmp_path: Path) -> None:
    system: System = PEERS["floor"](tmp_path)
    assert system.command is not None
    with floor() as worker:
        place = Place(tmp_path, free_port(), worker)
        with running(system, system.command(place), place, tmp_path):  # calls, and closes
            callers = [HTTPConnection("127.0.0.1", place.port, timeout=10) for _ in range(2)]
            seen = set()
            for number in range(6):
                caller = callers[number % 2]
                caller.request("POST", ("/chunks", "/plain")[number // 2 % 2], f"call {number}")
                body, connection = json.loads(caller.getresponse().read())
                assert body == f"call {number}"
                seen.add(connection)
            assert len(seen) == 1
            for caller in callers:
                caller.close()


@pytest.mark.skipif(shutil.which("go") is None, reason="there is no Go")
def test_worker_sends_usage_at_once_after_the_last_choice(tmp_path: Path) -> None:
    never = 3_600_000_000
    content = f" tokens=0 prompt-tokens=3 gap-us={never} "
    asked = {"stream": True, "stream_options": {"include_usage": True}, "messages": content}
    with workers(build(tmp_path) / "upstream", 1) as port:
        caller = HTTPConnection("127.0.0.1", port, timeout=10)
        caller.request("POST", "/v1/chat/completions", json.dumps(asked).replace('": ', '":'))
        events = caller.getresponse().read().split(b"\n\n")
        caller.close()
    assert b'"finish_reason":"stop"' in events[0]
    assert b'"prompt_tokens":3' in events[1]
    assert events[2:] == [b"data: [DONE]", b""]
