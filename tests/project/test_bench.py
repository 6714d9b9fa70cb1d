"""How the benchmark shows what it measured, and the parts of it that need no other gateway."""

import json
import os
import shutil
import sqlite3
import stat
import sys
import tarfile
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from bench.__main__ import main
from bench.chart import svg_of
from bench.conduct import Plan, tasks_of
from bench.filling import filled
from bench.found import Found, Machine, Readings
from bench.lines import Line, View
from bench.meter import used
from bench.page import BEGIN, END, replaced, write_page
from bench.processes import MEASURED, pinned
from bench.programs import said
from bench.report import Report, read, report_of, write
from bench.rows import FRESH, GATEWAY, IDLE, PACED, PLAIN, ROWS, STREAM
from bench.running import Running, count
from bench.scale import scale_rows
from bench.stack import WHOLE, hosts, token_of, write_keys
from bench.systems import DIRECT, Place
from bench.table import markdown_of, text_of
from bench.uploading import BLOCK, archive
from bench.works import Calls, Reading
from gateway_plugins.auth.keys import Keys
from gateway_plugins.trace_capture.store.queries import TraceFilter, select
from gateway_plugins.uploads.installing.checking import check
from hypothesis import example, given
from hypothesis import strategies as st
from support.paths import DOCS

from gateway import Config, ConfigError, open_read_only
from gateway.config import StorageSettings, load

PAGE = DOCS / "performance.md"
ALL_ROWS = (*ROWS, *scale_rows(quick=True))


def found_of(readings: Mapping[tuple[str, str], list[Reading]]) -> Found:
    return Found(
        date="2026-01-01T00:00:00+00:00",
        machine=Machine("a processor", 2, "6.1", "3.11"),
        rounds=3,
        seconds=4.0,
        rows=[row.name for row in ROWS],
        versions={"nginx": "1.22.1"},
        readings=[Readings(*where, rounds) for where, rounds in readings.items()],
    )


def report(per_call: float = 300.0, per_event: float = 20.0) -> Report:
    found = found_of(
        {
            ("vllm-router", PLAIN.name): [Reading(per_call=each) for each in (180, 200, 900)],
            ("vllm-router", STREAM.name): [Reading(per_event=10.0)],
            (GATEWAY.name, PLAIN.name): [Reading(per_call=per_call)],
            (GATEWAY.name, STREAM.name): [Reading(per_event=per_event)],
            (GATEWAY.name, PACED.name): [Reading(ttft_p50=2.5)],
            (DIRECT.name, PACED.name): [Reading(ttft_p50=2.0)],
            (FRESH.name, IDLE.name): [Reading(idle_memory=60.0, per_stream=50.0)],
        }
    )
    return report_of(found, ROWS)


def line(row: str, place: int = 0) -> Line:
    return report().table[row][place]


# what is reached


def test_report_figures_are_medians_over_the_rounds() -> None:
    assert line("plain").other == 200


def test_report_outcome_is_a_ratio_a_difference_or_the_figure_itself() -> None:
    assert line("plain").outcome == 1.5
    assert line("latency").outcome == pytest.approx(0.5)
    assert line("memory").outcome == 60.0


def test_report_target_is_met_up_to_and_including_its_bound() -> None:
    assert [line("plain").met, line("stream").met] == [True, False]
    assert [line("memory", place).met for place in (0, 1)] == [True, False]
    assert Line(what="", figure=2.0, unit="", other=1.0, most=2.0).met


def test_report_target_without_a_measurement_is_neither_met_nor_missed() -> None:
    assert (line("plain", 1).outcome, line("plain", 1).met) == (None, None)
    assert Line(what="", figure=2.0, unit="", other=0.0, most=2.0).met is None


def test_report_scale_row_divides_the_highest_cost_by_the_lowest() -> None:
    keys = next(row for row in ALL_ROWS if row.name == "keys")
    costs = dict(zip(keys.systems, (130.0, 100.0), strict=True))
    found = found_of({(one.name, PLAIN.name): [Reading(per_call=costs[one])] for one in costs})
    [flat] = keys.lines(View(found))
    assert (flat.figure, flat.other, flat.outcome, flat.met) == (130.0, 100.0, 1.3, False)


# how it is shown


def test_text_report_shows_figures_outcomes_targets_and_versions() -> None:
    text = text_of(report())
    first = " ".join(text.splitlines()[1].split())
    assert first.endswith("300 µs vllm-router 200 µs 1.50 x 4.00 x yes")
    assert "NO" in text
    assert "+0.50 ms" in text
    assert "nginx 1.22.1" in text


def test_reports_show_each_problem_and_left_out_system_on_one_line() -> None:
    one = report()
    one.found.problems.append("3 calls\nfailed")
    one.found.left_out["litellm"] = "no such\npackage"
    for shown in (text_of(one), markdown_of(one)):
        assert "PROBLEM 3 calls failed" in shown
        assert "litellm is left out: no such package" in shown


FIGURES = st.floats(allow_nan=True, allow_infinity=True)


@given(FIGURES, FIGURES)
@example(float("inf"), float("nan"))
@example(5e-324, 1.7e308)
def test_chart_is_valid_xml_for_any_figures(per_call: float, per_event: float) -> None:
    drawn = svg_of(report(per_call, per_event))
    assert ET.fromstring(drawn).tag.endswith("svg")
    assert len(drawn) < 20_000
    assert "nan" not in drawn
    assert "inf" not in drawn


def test_chart_has_one_bar_per_measured_system() -> None:
    drawn = svg_of(report())
    assert drawn.count("<rect") == 4
    assert drawn.count('class="bar ours"') == 2


def test_bench_reads_a_saved_report_and_shows_it_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.json"
    write(report(), file)
    assert read(file) == report()
    assert main(["--read", str(file), "--svg", str(tmp_path / "run.svg")]) == 0
    assert capsys.readouterr().out == text_of(report())
    assert (tmp_path / "run.svg").read_text() == svg_of(report())


def test_bench_exits_with_1_if_the_report_has_problems(tmp_path: Path) -> None:
    one = report()
    one.found.problems.append("a call failed")
    write(one, tmp_path / "run.json")
    assert main(["--read", str(tmp_path / "run.json")]) == 1


@pytest.mark.parametrize("arguments", [["--only", "plane"], ["--peers", "apache"], ["--read", "/"]])
def test_bench_names_a_wrong_argument_on_stderr(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert arguments[1] in capsys.readouterr().err


@given(st.text(), st.text(), st.text(), st.text())
def test_replaced_changes_only_the_text_between_the_marks(
    before: str, old: str, block: str, after: str
) -> None:
    text = f"{before}{BEGIN}{old}{END}{after}"
    assert replaced(text, block, "page") == f"{before}{BEGIN}\n{block}{END}{after}"


@pytest.mark.parametrize("text", ["", BEGIN, END, END + BEGIN])
def test_write_page_rejects_a_page_without_marks(text: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(ConfigError, match=r"page\.md"):
        write_page(report(), page)
    assert page.read_text() == text


def test_write_page_replaces_the_last_run_and_its_chart(tmp_path: Path) -> None:
    page = tmp_path / PAGE.name
    shutil.copy(PAGE, page)
    write_page(report(), page)
    write_page(report(), page)
    assert page.read_text().count(markdown_of(report())) == 1
    assert svg_of(report()) == page.with_suffix(".svg").read_text()
    assert ET.parse(PAGE.with_suffix(".svg")).getroot().tag.endswith("svg")


def test_performance_page_describes_each_row() -> None:
    text = PAGE.read_text()
    left_out = {"no-capture", "core", "latency"}  # other systems and figures of the same works
    assert [row.name for row in ALL_ROWS if row.name not in left_out and row.name not in text] == []


# what is measured


def test_bench_plan_runs_each_work_once_per_system(tmp_path: Path) -> None:
    plan = Plan(rows=ROWS, peers=(), rounds=1, seconds=1, programs=tmp_path, work=tmp_path)
    tasks = tasks_of(plan, report().found)
    works = {one.system.name: [work.name for work in one.works] for one in tasks}
    assert works[GATEWAY.name][:3] == ["plain", "stream", "paced"]
    assert all(len(set(names)) == len(names) for names in works.values())
    assert works[DIRECT.name] == ["paced"]


@pytest.mark.usefixtures("empty_folder")
def test_bench_config_enables_the_whole_stack_for_all_workers(tmp_path: Path) -> None:
    [many] = [row.systems[-1] for row in ALL_ROWS if row.name == "workers"]
    assert many.command is not None
    command = many.command(Place(tmp_path, 1234, 5678))
    config = load(tmp_path / "gateway.yaml")
    assert tuple(entry.name for entry in config.plugins) == WHOLE
    assert len({worker.url for worker in config.workers}) == many.workers
    assert command.traces == tmp_path / config.storage.path


@pytest.mark.usefixtures("empty_folder")
def test_spans_of_the_bench_go_to_the_worker_by_the_ratio(tmp_path: Path) -> None:
    [row] = [row for row in ALL_ROWS if row.name == "spans"]
    found = []
    for system in row.systems:
        assert system.command is not None
        system.command(Place(tmp_path, 1234, 5678))
        plugins = load(tmp_path / "gateway.yaml").plugins
        found.append([(one.name, one.options) for one in plugins])
    target = {"endpoint": "http://127.0.0.1:5678"}
    assert found == [[], [("otel", target | {"ratio": 0.1})], [("otel", target | {"ratio": 0})]]


def test_hosts_gives_each_of_256_workers_its_own_address() -> None:
    found = hosts(256)
    assert len(set(found)) == 256
    assert (found[0], found[-1]) == ("127.0.0.1", "127.0.1.0")


def test_write_keys_creates_exactly_the_keys_of_the_callers(tmp_path: Path) -> None:
    write_keys(tmp_path / "keys.json", 3)
    keys = Keys((tmp_path / "keys.json").read_bytes())
    assert [keys.find(token_of(number).encode()) is not None for number in range(4)] == [1, 1, 1, 0]
    assert stat.S_IMODE((tmp_path / "keys.json").stat().st_mode) == 0o600


def test_filled_database_has_readable_traces_and_summed_calls(tmp_path: Path) -> None:
    file = tmp_path / "gateway.db"
    filled(1_000, 100)(file)
    assert count(file) == 1_000
    with open_read_only(Config(storage=StorageSettings(path=str(file))), "GET /sessions") as db:
        traces = list(select(db, TraceFilter(session_ids=("s7",))))
        assert [one.prompt_token_ids for one in traces] == [[1, 2, 3]] * 10
    with closing(sqlite3.connect(file)) as db:
        for table in ("usage_calls", "traces"):
            [(rows,)] = db.execute(f"SELECT count(*) FROM {table}")
            assert rows == 1_000
        assert db.execute("SELECT * FROM usage_not_summed").fetchall() == []


def test_failed_program_raises_an_error_with_its_stderr() -> None:
    with pytest.raises(ConfigError, match="no way"):
        said([sys.executable, "-c", "raise SystemExit('no way')"])


two_processors = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="callers have a processor of their own"
)


def test_archive_of_the_work_is_a_model_of_its_size(tmp_path: Path) -> None:
    (tmp_path / "model.tar.gz").write_bytes(archive(1))
    with tarfile.open(tmp_path / "model.tar.gz") as found:
        found.extractall(tmp_path, filter="data")
    assert 0.4 * BLOCK < (tmp_path / "model.tar.gz").stat().st_size < 0.7 * BLOCK
    assert check(tmp_path / "model", is_single=False) > BLOCK


@two_processors
def test_work_turns_the_load_generator_s_output_into_a_reading(tmp_path: Path) -> None:
    quantiles = {"p50": 1.0, "p99": 2.0}
    counts = {"seconds": 2.0, "calls": 10, "events": 0, "answered": 15, "errors": 1}
    told = counts | {"first_error": "no"} | dict.fromkeys(("latency", "ttft", "gap"), quantiles)
    load_ = tmp_path / "load"
    load_.write_text(f"#!/bin/sh\necho begin\necho end\necho '{json.dumps(told)}'\n")
    load_.chmod(0o755)
    beside = msgspec.structs.replace(PLAIN, name="beside")
    for work, errors in ((PLAIN, 1), (Calls(name="both", beside=beside), 2)):
        reading = work.do(Running(DIRECT, "http://127.0.0.1:1", None, load_), 1.0)
        assert (reading.rate, reading.ttft_p99, reading.per_call) == (5.0, 2.0, None)
        assert (reading.answered, reading.errors) == (15 * errors, errors)


def test_used_adds_the_cpu_time_of_child_processes() -> None:
    burn = "import time\nwhile time.process_time() < 0.2: pass"
    run = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {burn!r}])\n"
    code = f"{run}print('burnt', flush=True)\nimport signal\nsignal.pause()"
    with pinned([sys.executable, "-c", code], MEASURED) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"burnt\n"
        found = used(parent.pid)
    assert found.cpu >= 0.2
    assert found.memory > 2**20
    assert found.loop < 0.2
