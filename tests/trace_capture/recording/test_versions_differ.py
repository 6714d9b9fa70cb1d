"""Whether the versions of an engine differ from the fleet's."""

import pytest
from gateway_plugins.trace_capture.answers.metadata import versions_named
from gateway_plugins.trace_capture.recording.record import differ

from gateway import Attempt, Worker, config

SPANS = [{"version": "7", "start": 0, "end": 2}, {"version": 8, "start": 2, "end": 3}]


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        ({}, []),
        ({"weight_version": 7}, [7]),
        ({"weight_version": True, "metadata": 5}, []),
        ({"metadata": {"weight_version": "8", "weight_versions": SPANS}}, ["7", 8]),
        ({"choices": [{"meta_info": {"weight_version": "8"}}, 3, None]}, ["8"]),
        ({"choices": [{"weight_versions": SPANS}, {"weight_versions": SPANS[:1]}]}, ["7", 8]),
        ({"choices": [{"weight_versions": [{"version": "default"}, 1, {}]}]}, []),
        ({"choices": [{"weight_versions": 5, "weight_version": []}]}, []),
    ],
)
def test_all_versions_of_a_response_are_found(
    answer: dict[str, object], named: list[int | str]
) -> None:
    assert versions_named(answer) == named


@pytest.mark.parametrize(
    ("named", "start", "end", "found"),
    [
        (["7"], 7, 7, False),
        (["7", 8], 7, 7, True),
        ([8], 7, 7, True),
        ([8], 7, 9, False),
        ([8], None, None, False),
        ([8], "default", "default", False),
        ([], 7, 7, False),
    ],
)
def test_a_difference_needs_weights_that_stayed_the_same(
    named: list[int | str],
    start: int | str | None,
    end: int | str | None,
    found: bool,
) -> None:
    settings = config.Worker(url="http://127.0.0.1:1")
    worker = Worker(settings, config.Timeouts(), config.ServerLimits())
    attempt = Attempt(worker, 0.0, weight_version=start, weight_version_end=end)
    assert differ(named, attempt) is found
