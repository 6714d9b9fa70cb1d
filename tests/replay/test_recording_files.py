"""Files that a recording may be read from: what is wrong with one is told with its line."""

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from gateway_plugins.replay.errors import RecordingUnreadable
from gateway_plugins.replay.matching import Diverged, Live, Matcher, Recorded
from gateway_plugins.replay.recording import read_recording
from gateway_plugins.replay.requests import IDENTITY, Rules, first_difference
from hypothesis import given
from hypothesis import strategies as st
from support.agents.tool_agent import REPLAY

from gateway import Config, ConfigError, Gateway, Trace, WireResponse
from gateway.testing import entry

RULES = Rules(IDENTITY, ())
PATH = "/v1/chat/completions"


def trace(number: int, session_id: str = "s", **fields: Any) -> Trace:
    given: dict[str, Any] = {
        "trace_id": f"{number:032x}",
        "session_id": session_id,
        "timestamp": float(number),
        "path": PATH,
        "raw_request": {"model": "sim", "seed": number},
        "wire_response": WireResponse(status=200, headers=[("a", "b")], body=b"{}"),
    }
    return Trace(**{**given, **fields})


def written(path: Path, *traces: Trace) -> str:
    path.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in traces))
    return str(path)


def edited(change: Callable[[dict[str, Any]], object]) -> bytes:
    fields = msgspec.to_builtins(trace(2))
    change(fields)
    return json.dumps(fields).encode()


def head(name: str, value: str) -> bytes:
    return edited(lambda one: one["wire_response"].update(headers=[[name, value]]))


WRONG = {
    "no JSON": (b"traces", "this is no trace"),
    "cut short": (msgspec.json.encode(trace(2))[:-9], "this is no trace"),
    "another kind": (b'{"session_id": "s", "token_ids": []}', "trace_id: missing"),
    "not UTF-8": (b'{"trace_id": "\xff"}', "this is no trace"),
    "deep": (b'{"trace_id": "a", "metadata": ' + b'{"a":' * 100_000, "this is no trace"),
    "no bytes": (
        edited(lambda one: one.update(wire_response=None, choices=[{"token_ids": [1]}])),
        "wire_responses: true",
    ),
    "no base64": (edited(lambda one: one["wire_response"].update(body="*")), "this is no trace"),
    "status": (edited(lambda one: one["wire_response"].update(status=99)), "99 is no status"),
    "name": (head("a b", "c"), "no header line"),
    "line break": (head("a", "b\r\nset-cookie: c"), "no header line"),
    "value": (head("a", "b\0"), "no header line"),
}


@pytest.mark.parametrize("name", WRONG)
def test_line_that_is_no_trace_is_named(tmp_path: Path, name: str) -> None:
    line, words = WRONG[name]
    path = tmp_path / "run.jsonl"
    path.write_bytes(msgspec.json.encode(trace(1)) + b"\n\n" + line)
    with pytest.raises(ConfigError) as caught:
        read_recording(str(path), RULES)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert words in str(caught.value)


def test_file_without_responses_is_rejected(tmp_path: Path) -> None:
    not_json = trace(2, raw_request=None)
    path = written(tmp_path / "run.jsonl", trace(1, wire_response=None), not_json)
    with pytest.raises(ConfigError, match="no trace with a worker's response"):
        read_recording(path, RULES)
    with pytest.raises(ConfigError, match="No such file"):
        read_recording(f"{path}.other", RULES)


def test_file_that_changes_under_the_gateway_is_no_answer(tmp_path: Path) -> None:
    path = written(tmp_path / "run.jsonl", trace(1), trace(2))
    recording = read_recording(path, RULES)
    steps = recording.sessions["s"].steps
    assert recording.trace(steps[1]).trace_id == trace(2).trace_id
    written(tmp_path / "run.jsonl", trace(2), trace(1))
    with pytest.raises(RecordingUnreadable):
        recording.trace(steps[1])
    (tmp_path / "run.jsonl").unlink()
    with pytest.raises(RecordingUnreadable):
        recording.trace(steps[1])


def test_replay_needs_one_process(tmp_path: Path) -> None:
    plugins = (entry(REPLAY, path=written(tmp_path / "run.jsonl", trace(1))),)
    with pytest.raises(ConfigError, match="works in one process alone"):
        Gateway(Config(workers=(), plugins=plugins, processes=2))


def test_calls_are_numbered_in_the_order_of_their_arrival(tmp_path: Path) -> None:
    """A file has them in the order of their ends."""
    path = written(tmp_path / "run.jsonl", trace(3), trace(1), trace(2), trace(4, "t"))
    recording = read_recording(path, RULES)
    assert [step.trace_id for step in recording.sessions["s"].steps] == [
        f"{number:032x}" for number in (1, 2, 3)
    ]
    assert [step.number for step in recording.sessions["t"].steps] == [1]


READ = """
import resource, sys
from gateway_plugins.replay.recording import read_recording
from gateway_plugins.replay.requests import Rules
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
recording = read_recording(sys.argv[1], Rules((), ()))
assert len(recording.sessions["s"].steps) == int(sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_the_traces(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with path.open("wb") as file:
        for number in range(48):
            body = random.Random(number).randbytes(1 << 20)
            response = WireResponse(status=200, body=body)
            file.write(msgspec.json.encode(trace(number, wire_response=response)) + b"\n")
    command = [sys.executable, "-c", READ, str(path), "48"]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert path.stat().st_size > 60 << 20
    assert grown < 24 << 10, f"{grown} KiB"


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.data())
def test_each_recorded_call_answers_once_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, seeds: list[int], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("recordings")
    traces = [trace(at, raw_request={"seed": seed}) for at, seed in enumerate(seeds)]
    recording = read_recording(written(folder / "run.jsonl", *traces), RULES)
    to_step = data.draw(st.none() | st.integers(0, len(seeds)))
    matcher = Matcher(recording, to_step)
    asked = data.draw(st.permutations(seeds))
    found = [matcher.match("new", RULES.digest(PATH, {"seed": seed})) for seed in asked]
    assert not [one for one in found if isinstance(one, Diverged)]
    numbers = [one.step.number for one in found if not isinstance(one, Diverged) and one.step]
    assert sorted(numbers) == list(range(1, len(seeds) + 1))
    last = len(seeds) if to_step is None else to_step
    for one in found:
        assert isinstance(one, Recorded if one.step and one.step.number <= last else Live)  # type: ignore[union-attr]
    another = matcher.match("new", RULES.digest(PATH, {"seed": 9}))
    assert isinstance(another, Diverged if to_step is None else Live)
    # Another key's session of the same name begins at the first step.
    theirs = matcher.match("new", RULES.digest(PATH, {"seed": asked[0]}), "another")
    assert theirs == found[0]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(0, 1)
    | st.sampled_from((0.0, -0.0, 1.0))
    | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=5,
)


@given(st.dictionaries(st.text(), JSON), st.dictionaries(st.text(), JSON))
def test_first_difference_is_found_exactly_if_digests_differ(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    same = RULES.digest(PATH, one) == RULES.digest(PATH, other)
    found = first_difference(RULES, one, other)
    assert (found is None) is same
    assert first_difference(RULES, one, one) is None


def test_requests_are_equal_in_any_order_of_their_fields() -> None:
    assert RULES.digest(PATH, {"a": 1, "b": {"c": 1, "d": 2}}) == RULES.digest(
        PATH, {"b": {"d": 2, "c": 1}, "user": "me", "a": 1}
    )
    assert RULES.digest(PATH, {"a": 1}) != RULES.digest("/v1/completions", {"a": 1})


def test_mask_that_is_no_pattern_is_rejected() -> None:
    with pytest.raises(ValueError, match="no regular expression"):
        Rules((), ("(",))
