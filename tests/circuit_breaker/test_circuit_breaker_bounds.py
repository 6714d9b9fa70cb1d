"""How many workers the breaker ejects and for how long; workers that go; its options."""

import asyncio
from collections.abc import Sequence

import pytest
from gateway_plugins.circuit_breaker import CircuitBreaker
from gateway_plugins.circuit_breaker.circuit import Circuit, Options, Window
from hypothesis import given
from hypothesis import strategies as st
from support.plugins.recording_plugin import until
from support.steady import steady
from support.workers.failing_on_demand import Moody, ask, breaker, fail, half_open, state_of
from support.workers.failing_worker import InOrder

from gateway import ConfigError, Gateway
from gateway.config import Config, Failover, Probes, Timeouts
from gateway.config import Worker as WorkerConfig
from gateway.simulator import Simulator
from gateway.testing import GatewayFor, ScriptedConnection, ScriptedWorker, answer_of, entry
from gateway.testing import live as serve

ALONE = Failover(max_workers=1)
UNASKED = Probes(interval=None, models_interval=None)
FAILS = answer_of(b"{}", status="500 Internal Server Error")


async def never_answer(connection: ScriptedConnection) -> None:
    await connection.wait_closed()


# how many


@pytest.mark.parametrize(
    ("count", "share", "ejected"), [(1, 0.5, 0), (1, 1, 1), (2, 0.5, 1), (3, 0.5, 1), (4, 0.99, 3)]
)
async def test_breaker_ejects_at_most_the_max_ejected_share(
    gateway_for: GatewayFor, count: int, share: float, ejected: int
) -> None:
    async with ScriptedWorker(FAILS) as worker:
        same = tuple(WorkerConfig(url=worker.url, worker_id=f"w{n}") for n in range(count))
        live = await gateway_for(breaker(max_ejected_share=share), workers=same, failover=ALONE)
        await fail(live, 4 * count)
        assert len([n for n in range(count) if state_of(live, n) == "ejected"]) == ejected
        assert live.plugin(CircuitBreaker).changes.ejected == ejected
        assert live.plugin(CircuitBreaker).changes.spared == count - ejected


async def test_breaker_applies_max_ejected_per_model(
    gateway_for: GatewayFor,
) -> None:
    async with ScriptedWorker(FAILS) as worker:
        same = tuple(
            WorkerConfig(url=worker.url, worker_id=name, model_name=name[0])
            for name in ("a1", "a2", "b1", "b2")
        )
        live = await gateway_for(breaker(max_ejected_share=0.5), workers=same, failover=ALONE)
        for _ in range(8):
            await ask(live, model="a")
        assert [state_of(live, n) for n in range(4)].count("ejected") == 1


async def test_breaker_counts_draining_workers_towards_max_ejected(
    gateway_for: GatewayFor, simulator: Simulator
) -> None:
    async with ScriptedWorker(FAILS) as worker:
        workers = (worker.url, simulator.url)
        live = await gateway_for(breaker(max_ejected_share=0.5), InOrder, workers=workers)
        live.gateway.workers.all[1].mark("test", "draining", "for a while")
        await fail(live, 4)
        assert state_of(live) == "up"
        live.gateway.workers.all[1].clear("test")
        await fail(live)
        assert state_of(live) == "ejected"


@steady
async def test_breaker_sends_no_more_calls_to_a_silent_worker(
    gateway_for: GatewayFor, simulator: Simulator
) -> None:
    async with ScriptedWorker(never_answer) as hole:
        workers = (hole.url, simulator.url)
        live = await gateway_for(breaker(), workers=workers, timeouts=Timeouts(first_byte=0.05))
        answers = await asyncio.gather(*(ask(live) for _ in range(10)))
        assert {answer.status_code for answer in answers} == {200, 504}
        assert state_of(live) == "ejected"
        seen = len(hole.connections)
        assert {(await ask(live)).status_code for _ in range(10)} == {200}
        assert len(hole.connections) == seen


# workers that go, and the end


async def test_breaker_forgets_a_removed_worker(
    gateway_for: GatewayFor, caplog: pytest.LogCaptureFixture
) -> None:
    async with Moody() as first, Moody() as second:
        options = breaker(cooldown=0.1, jitter=0)
        live = await gateway_for(options, workers=(first.url, second.url))
        first.well = False
        while state_of(live) == "up":
            await ask(live)
        removed = live.gateway.workers.all[0]
        live.gateway.workers.remove(removed.id)
        await half_open(live, second)  # the first one's cooldown would be over before
        assert live.plugin(CircuitBreaker).changes.half_open == 1
        live.gateway.workers.add(removed.settings)
        assert state_of(live, 1) == "up"
        assert not [one for one in caplog.records if one.levelname == "ERROR"]


async def test_breaker_ignores_calls_of_a_removed_worker(gateway_for: GatewayFor) -> None:
    async with Moody() as worker:
        live = await gateway_for(breaker(consecutive_failures=1), workers=(worker.url,))
        worker.well = False
        worker.gate.clear()
        call = asyncio.create_task(ask(live))
        await until(lambda: worker.held == 1)
        live.gateway.workers.remove(live.gateway.workers.all[0].id)
        worker.gate.set()
        assert (await call).status_code == 500
        assert live.plugin(CircuitBreaker).changes.ejected == 0


async def test_breaker_clears_ejections_at_shutdown() -> None:
    async with ScriptedWorker(FAILS) as worker:
        config = Config(
            workers=(WorkerConfig(url=worker.url),), plugins=(breaker(),), probes=UNASKED
        )
        async with serve(config) as live:
            await fail(live)
            assert state_of(live) == "ejected"
        assert state_of(live) == "up"
        assert live.gateway.workers.changed == []


# options


async def test_breaker_reload_applies_options_and_keeps_ejections(
    gateway_for: GatewayFor,
) -> None:
    async with Moody() as first, Moody() as second:
        live = await gateway_for(breaker(), workers=(first.url, second.url))
        first.well = False
        while state_of(live) == "up":
            await ask(live)
        options = Options(consecutive_failures=4, max_ejected_share=1)
        live.plugin(CircuitBreaker).reconfigure(options)
        assert state_of(live) == "ejected"
        second.well = False
        await fail(live, 3)
        assert state_of(live, 1) == "up"
        await fail(live, 1)
        assert state_of(live, 1) == "ejected"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"consecutive_failures": None, "error_rate": None}, "one of them, else nothing ejects"),
        ({"cooldown": 20, "max_cooldown": 10}, "max_cooldown (10 s) must not be below cooldown"),
        ({"max_ejected_share": 1.5}, "max_ejected_share"),
        ({"max_trials": 0}, "max_trials"),
        ({"jitter": 1}, "jitter"),
        ({"threshold": 3}, "unknown option"),
    ],
)
def test_breaker_rejects_invalid_options(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Gateway(Config(plugins=(entry("circuit_breaker", **options),)))
    assert said in str(caught.value)


# the counting


def ejections(circuit: Circuit, pauses: Sequence[float]) -> list[float]:
    """The cooldowns of ejections, each so many seconds after the worker was back."""
    now, found = 0.0, []
    for pause in pauses:
        now += pause
        circuit.eject(now)
        found.append(circuit.cooldown)
        now += circuit.cooldown
        circuit.open_half(now, 0)
        circuit.close(now)
    return found


def test_cooldown_shortens_after_time_without_ejection() -> None:
    options = Options(cooldown=10, max_cooldown=300, jitter=0)
    assert ejections(Circuit(options), [0, 0, 0, 0]) == [10, 20, 40, 80]
    assert ejections(Circuit(options), [0, 0, 0, 41, 0]) == [10, 20, 40, 40, 80]
    assert ejections(Circuit(options), [0, 0, 0, 10_000]) == [10, 20, 40, 10]


@given(st.lists(st.floats(0, 1e6), max_size=200), st.floats(0, 0.99))
def test_cooldown_stays_within_its_bounds(pauses: list[float], jitter: float) -> None:
    options = Options(cooldown=1, max_cooldown=60, jitter=jitter)
    for cooldown in ejections(Circuit(options), pauses):
        assert 1 - jitter <= cooldown <= 60 * (1 + jitter)


calls = st.lists(st.tuples(st.floats(0, 20), st.booleans()), max_size=60)


@given(calls)
def test_window_counts_only_recent_calls(calls: list[tuple[float, bool]]) -> None:
    window, now, seen = Window(30.0), 1e6, []
    for pause, failed in calls:
        now += pause
        window.add(now, failed=failed)
        seen.append((now, failed))
        found = window.counts(now)
        surely = [bad for at, bad in seen if at > now - 27]
        perhaps = [bad for at, bad in seen if at >= now - 30]
        assert len(surely) <= found[0] <= len(perhaps)
        assert sum(surely) <= found[1] <= sum(perhaps)
