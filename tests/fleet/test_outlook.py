"""When a worker that is away may be back, as `Retry-After` says it."""

import pytest

from gateway.config import Config, Worker
from gateway.fleet.registry import Workers
from gateway.fleet.times.outlook import Absence, seconds_until_one

NOW = 1_000.0


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.fleet.times.outlook.monotonic", lambda: NOW)


def away(since: float, usual: float | None = None) -> Absence:
    """A worker that is away for `since` seconds, and was away for `usual` seconds before."""
    absence = Absence()
    if usual is not None:
        absence.begin(0.0)
        absence.end(usual)
    absence.begin(NOW - since)
    return absence


@pytest.mark.parametrize(
    ("since", "usual", "seconds"),
    [
        (0.0, None, 1),
        (7.2, None, 8),
        (500.0, None, 59),
        (10.0, 45.0, 35),
        (44.9, 45.0, 1),
        (50.0, 45.0, 50),
        (1.0, 900.0, 59),
    ],
)
def test_absence_lasts_as_usual_or_as_long_again(
    since: float, usual: float | None, seconds: int
) -> None:
    one = away(since, usual)
    assert seconds_until_one([one], [one]) == seconds


def test_first_worker_to_come_back_counts() -> None:
    fleet = [away(5.0, 50.0), away(5.0, 12.0)]
    assert seconds_until_one(fleet, fleet) == 7


def test_new_worker_is_taken_to_start_as_slowly_as_the_slowest() -> None:
    new = away(4.0)
    assert seconds_until_one([new], [new, away(0.0, 20.0), away(0.0, 30.0)]) == 26


def test_registry_leaves_out_drained_workers_and_knows_the_models() -> None:
    named = (
        Worker(url="http://a", worker_id="a", models=("m",)),
        Worker(url="http://b", worker_id="b", models=("n",)),
    )
    workers = Workers(Config(workers=named))
    a, b = workers.all
    assert workers.seconds_until_fit("m") == 1
    a.mark("probe", "down", "as the test wants it")
    a.absence.since = NOW - 9.5
    assert (workers.seconds_until_fit("m"), workers.seconds_until_fit("n")) == (10, 1)
    assert workers.is_last(b)
    a.clear("probe")
    assert a.absence.since is None
