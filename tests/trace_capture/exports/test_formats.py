"""The formats by command line and by route, on what a gateway has recorded."""

import re
from pathlib import Path
from typing import Any

import pytest
from gateway_plugins.trace_capture.exports.formats import FORMATS, TRAINERS, file_of
from gateway_plugins.trace_capture.exports.trainers import slime
from support.gateways.capturing import call, capturing
from support.paths import DOCS
from support.records.recorded_file import Traces
from support.trainers.files import lines, parquet, samples

from gateway.testing import GatewayFor

LEFT = "4 trajectories written\n2 left out: aborted 1, error_answer 1"


def rows_of(name: str, data: bytes) -> list[dict[str, Any]]:
    read = {"jsonl": lines, "parquet": parquet, "pt": samples}[file_of(name).suffix]
    return read(data)


@pytest.mark.parametrize("name", TRAINERS)
def test_export_writes_each_format_of_a_trainer(traces: Traces, tmp_path: Path, name: str) -> None:
    file = tmp_path / "out"
    status, _, err = traces("export", "--format", name, "-o", file)
    assert status == 1
    assert err.startswith(LEFT)
    [first, *others] = rows_of(name, file.read_bytes())
    assert len(others) == 3
    assert list(first) == list(TRAINERS[name].row_type.__struct_fields__)


def test_export_masks_incomplete_turns_if_they_are_allowed(traces: Traces, tmp_path: Path) -> None:
    status, _, err = traces(
        "export", "--format", "trl", "--allow-incomplete", "-o", tmp_path / "out"
    )
    assert status == 0
    assert err.startswith(LEFT), "of the aborted call nothing is left to train"


@pytest.mark.parametrize(
    ("kinds", "count"), [("none", 3), ("sample", 1), ("none,sample", 4), ("retry", 0)]
)
def test_export_selects_kinds_of_forks(traces: Traces, kinds: str, count: int) -> None:
    arguments = ("--trajectories", "--fork-kind", kinds, "--verdict", "COMPLETE")
    status, out, err = traces("export", *arguments)
    assert (status, len(out.splitlines())) == (0, count), err


def test_export_names_wrong_formats_and_kinds(traces: Traces) -> None:
    status, _, err = traces("export", "--format", "slime")
    assert (status, "name a file with -o" in err) == (2, True)
    status, _, err = traces("export", "--fork-kind", "none")
    assert (status, "--trajectories" in err) == (2, True)
    status, _, err = traces("export", "--trajectories", "--fork-kind", "spoon")
    assert (status, "expected some of none, sample, retry" in err) == (2, True)
    status, _, err = traces("export", "-o", "out.csv")
    assert (status, "jsonl, parquet, verl" in err) == (2, True)


@pytest.mark.parametrize("name", FORMATS)
async def test_route_sends_each_format(gateway_for: GatewayFor, tmp_path: Path, name: str) -> None:
    live = await capturing(gateway_for, tmp_path)
    await call(live, "s")
    answer = await live.client.get("/sessions/s/trajectories", params={"format": name})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == file_of(name).media_type
    assert answer.headers["x-trajectories-left-out"] == "0"
    assert len(rows_of(name, answer.content)) == 1


async def test_route_names_wrong_formats_and_leaves_out_what_is_not_wanted(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path)
    await call(live, "s")
    path = "/sessions/s/trajectories"
    answer = await live.client.get(path, params={"format": "csv"})
    assert (answer.status_code, "write json, jsonl" in answer.text) == (400, True)
    answer = await live.client.get(path, params={"format": "trl", "fork_kind": "spoon"})
    assert answer.status_code == 400
    answer = await live.client.get(path, params={"format": "jsonl", "fork_kind": "retry"})
    assert (answer.status_code, answer.content) == (200, b"")
    missing = await live.client.get("/sessions/none/trajectories", params={"format": "atif"})
    assert missing.status_code == 404


def test_manual_names_each_format_and_its_columns() -> None:
    page = (DOCS / "exports.md").read_text()
    assert re.findall(r"^\| `([\w-]+)` \| [JPf]", page, re.MULTILINE) == list(FORMATS)
    named = set(re.findall(r"`(\w+)`", page))
    unnamed = set(slime.SlimeRow.__struct_fields__) - {"index", "response", "prompt"}
    for trainer in ("verl", "trl", "nemo-rl"):
        unnamed |= set(TRAINERS[trainer].row_type.__struct_fields__)
    assert unnamed - named == set()
