"""A worker is not fast because it fails: its load, and the times that it is known by."""

import asyncio
from collections import Counter

import pytest
from gateway_plugins.stickiness import Stickiness
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Failover, Probes
from gateway.config import Worker as Settings
from gateway.fleet.shed_load import MAX_SECONDS, ShedLoad
from gateway.testing import GatewayFor, ScriptedConnection, ScriptedWorker, answer_of, entry

UNASKED = Probes(interval=None, models_interval=None)
ALONE = Failover(max_workers=1)


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("gateway.fleet.shed_load.monotonic", lambda: self.now)


async def works(connection: ScriptedConnection) -> None:
    while True:
        await connection.read_request()
        await asyncio.sleep(0.05)
        await connection.write(answer_of(b'{"choices": []}'))


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["least_loaded", "power_of_two", None])
@pytest.mark.parametrize("status", ["404 Not Found", "500 Broken", "429 Later"])
async def test_fast_errors_do_not_draw_the_load(
    gateway_for: GatewayFor, policy: str | None, status: str
) -> None:
    fails = answer_of(b"{}", status=status)
    plugins = [] if policy is None else [entry("stickiness", policy=policy)]
    async with ScriptedWorker(works) as one, ScriptedWorker(fails) as two:
        workers = (Settings(url=one.url), Settings(url=two.url))
        live = await gateway_for(*plugins, workers=workers, failover=ALONE, probes=UNASKED)
        assert policy is None or live.plugin(Stickiness)
        statuses = Counter[int]()

        async def caller(number: int) -> None:
            for turn in range(10):
                answer = await live.client.post("/v1/completions", json={"user": f"{number}{turn}"})
                statuses[answer.status_code] += 1

        await asyncio.gather(*map(caller, range(6)))
        well, failing = live.gateway.workers.all
    assert statuses[200] >= 24, statuses
    assert (failing.ttft, failing.duration) == (None, None)
    assert well.duration is not None


async def test_callers_own_mistakes_load_no_worker(gateway_for: GatewayFor) -> None:
    async with ScriptedWorker(answer_of(b"{}", status="400 Bad Request")) as worker:
        live = await gateway_for(workers=[worker.url], probes=UNASKED)
        for _ in range(3):
            assert (await live.client.post("/v1/completions", json={})).status_code == 400
        assert live.gateway.workers.all[0].load == 1


def test_shed_load_weighs_as_much_as_an_attempt_that_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 failures a second, where attempts last 2 s, look like 200 in flight."""
    clock, shed = Clock(monkeypatch), ShedLoad()
    for _ in range(2_000):
        shed.add(0.0, 2.0)
        clock.now += 0.01
    assert shed.now() == pytest.approx(200, rel=0.02)
    clock.now += 100
    assert shed.now() == pytest.approx(0)
    assert shed.amount == 0


def test_failure_that_took_its_time_sheds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    shed = ShedLoad()
    shed.add(5.0, 2.0)
    assert shed.amount == 0
    shed.add(1.0, 2.0)
    assert shed.now() == 0.5


@given(st.lists(st.tuples(*[st.floats(0, 1e6)] * 3)), st.floats(0, 1e9))
def test_shed_load_is_never_negative_and_fades(
    failures: list[tuple[float, float, float]], later: float
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        clock, shed = Clock(patch), ShedLoad()
        for seconds, usual, pause in failures:
            shed.add(seconds, usual)
            clock.now += pause
        before = shed.now()
        assert 0 <= before <= len(failures)
        clock.now += later
        assert shed.now() <= before
        clock.now += 30 * MAX_SECONDS
        assert shed.now() < 0.01
