"""Tokens, masks, logprobs, alternatives and experts in each export are the trajectory's."""

import io
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from gateway_plugins.trace_capture.exports.formats import TRAINERS
from gateway_plugins.trace_capture.exports.parquet import ParquetFile
from gateway_plugins.trace_capture.exports.rollout import Turns
from gateway_plugins.trace_capture.exports.rows import TraceRow, add_arrays, row_of, trace_row
from gateway_plugins.trace_capture.sequences.trajectories import trajectories
from hypothesis import HealthCheck, Phase, given, settings
from support.trainers.files import READERS, nested, parquet, unpacked, without_fill
from support.trainers.rollouts import (
    EXPERTS,
    LAYERS,
    REWARD,
    Read,
    experts_expected,
    rollouts_of,
    sessions,
    trained,
)

from gateway import SessionInfo, Trace, TraceChoice, Trajectory

FEW = settings(
    max_examples=15,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
    deadline=None,
)


def exported(name: str, traces: list[Trace]) -> tuple[list[Trajectory], list[Read]]:
    """The trajectories in which something is trained, and what is read of their export."""
    stream, trainer = io.BytesIO(), TRAINERS[name]
    output = trainer.file.open(stream, trainer.row_type)
    written = []
    for one, rollout in rollouts_of(traces):
        if rollout is not None:
            output.write(trainer.row_of(rollout))
            written.append(one)
    output.close()
    return written, list(READERS[name](stream.getvalue()))


def expected(one: Trajectory, traces: list[Trace]) -> Read:
    mask, rows = trained(one, traces), len(one.token_ids) - 1
    pairs = list(zip(mask, one.logprobs, one.weight_versions, strict=True))
    return {
        "tokens": one.token_ids,
        "mask": mask,
        "logprobs": [value if bit else 0.0 for bit, value, _ in pairs],
        "versions": [version if bit else None for bit, _, version in pairs],
        "experts": nested(experts_expected(one, traces), (rows, LAYERS, EXPERTS)),
        "top": [
            [(token + place, -1.5 - place) for place in range(1 + token % 2)] if bit else []
            for token, bit in zip(one.token_ids, mask, strict=True)
        ],
        "reward": REWARD.value,
    }


@pytest.mark.parametrize("name", TRAINERS)
@given(traces=sessions())
@FEW
def test_each_export_says_what_the_trajectory_says(name: str, traces: list[Trace]) -> None:
    written, found = exported(name, traces)
    assert len(found) == len(written)
    for one, read in zip(written, found, strict=True):
        wanted = expected(one, traces)
        start = wanted["mask"].index(1)
        wanted["trained_top"] = [top for top in wanted["top"] if top]
        wanted["top"] = wanted["top"][start:]
        assert read == {key: wanted[key] for key in read}


@given(traces=sessions())
@FEW
def test_each_token_of_a_complete_choice_is_trained_once_in_a_file(traces: list[Trace]) -> None:
    counted = Counter[str]()
    for one, read in zip(*exported("trl", traces), strict=True):
        for trace_id, place in zip(one.trace_ids, one.choices, strict=True):
            choice = next(t for t in traces if t.trace_id == trace_id).choices[place]
            start = len(choice.prompt_token_ids)
            stop = start + len(choice.token_ids)
            assert len(set(read["mask"][start:stop])) == 1
            counted[f"{trace_id}/{place}"] += read["mask"][start]
    whole = {
        f"{trace.trace_id}/{place}": 1 if choice.verdict == "COMPLETE" else 0
        for trace in traces
        for place, choice in enumerate(trace.choices)
    }
    assert {name: counted[name] for name in whole} == whole


@given(traces=sessions())
@FEW
def test_own_rows_pack_what_the_engine_sent_beside_the_tokens(traces: list[Trace]) -> None:
    for one, row in plain_rows(traces):
        rows = len(one.token_ids) - 1
        assert row["routed_experts"]["shape"] == [rows, LAYERS, EXPERTS]
        assert unpacked(row["routed_experts"]) == nested(
            experts_expected(one, traces), (rows, LAYERS, EXPERTS)
        )
        top = row["top_logprobs"]
        found = without_fill(unpacked(top["ids"]) or [], unpacked(top["logprobs"]) or [])
        assert found == [
            [(token + place, -1.5 - place) for place in range(1 + token % 2)]
            for token, bit in zip(one.token_ids, one.loss_mask, strict=True)
            if bit
        ]


def plain_rows(traces: list[Trace]) -> Iterator[tuple[Trajectory, dict[str, Any]]]:
    """Each trajectory with its row as a line of JSON has it."""
    turns = Turns()
    for one in trajectories("s", turns.following(traces)).trajectories:
        row = row_of(one, SessionInfo(session_id="s"), [])
        add_arrays(row, turns.of(one))
        yield one, json.loads(msgspec.json.encode(row))


def test_a_trace_in_parquet_has_its_arrays_packed() -> None:
    choice = TraceChoice(
        prompt_token_ids=[5],
        token_ids=[6, 7],
        logprobs=[-1.0, -2.0],
        top_logprobs=[[{"token": "a", "logprob": -1.0}], [{"token_id": 7, "logprob": -2.0}]],
        routing_matrices=[[[1, 2]], [[3, 4]]],
    )
    stream = io.BytesIO()
    file = ParquetFile(stream, TraceRow)
    file.write(trace_row(Trace(trace_id="t", choices=[choice])))
    file.close()
    [[row]] = [one["choices"] for one in parquet(stream.getvalue())]
    assert unpacked(row["routing_matrices"]) == [[[1, 2]], [[3, 4]]]
    assert unpacked(row["top_logprobs"]["ids"]) == [[-1], [7]]
    assert unpacked(row["top_logprobs"]["logprobs"]) == [[-1.0], [-2.0]]
    assert row["top_tokens"] == [["a"], [""]]
