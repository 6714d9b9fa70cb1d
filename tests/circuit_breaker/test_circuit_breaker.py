"""Workers that fail get no calls for a while; nothing that is not their fault has them ejected."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest
from gateway_plugins.circuit_breaker import CircuitBreaker
from support.plugins.recording_plugin import Watcher, until
from support.steady import steady
from support.workers.failing_on_demand import (
    AT_ONCE,
    Moody,
    ask,
    breaker,
    fail,
    half_open,
    reason_of,
    state_of,
)
from support.workers.failing_worker import refusal
from support.workers.full_backlog import full_backlog

from gateway.config import Timeouts
from gateway.simulator import Simulator
from gateway.testing import GatewayFor, ScriptedConnection, ScriptedWorker, answer_of

Script = bytes | Callable[[ScriptedConnection], Awaitable[None]]


# what counts


async def close_at_once(connection: ScriptedConnection) -> None:
    await connection.read_request()


async def reset(connection: ScriptedConnection) -> None:
    await connection.read_request()
    connection.reset()


async def break_off(connection: ScriptedConnection) -> None:
    await connection.read_request()
    await connection.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")


async def never_answer(connection: ScriptedConnection) -> None:
    await connection.wait_closed()


async def fall_silent(connection: ScriptedConnection) -> None:
    await break_off(connection)
    await connection.wait_closed()


FAULTS: dict[str, Script] = {
    "upstream_closed": close_at_once,
    "upstream_protocol_error": b"not HTTP\r\n\r\n",
    "upstream_first_byte_timeout": never_answer,
    "upstream_idle_timeout": fall_silent,
    "status 500": answer_of(b"{}", status="500 Internal Server Error"),
    "status 503": answer_of(b"{}", status="503 Service Unavailable"),
    "status 599": answer_of(b"{}", status="599 Odd"),
}


@pytest.mark.parametrize("fault", FAULTS)
@steady
async def test_breaker_ejects_a_worker_for_its_faults(gateway_for: GatewayFor, fault: str) -> None:
    async with ScriptedWorker(FAULTS[fault]) as worker:
        timeouts = Timeouts(first_byte=0.05, idle=0.05)
        live = await gateway_for(breaker(), workers=(worker.url,), timeouts=timeouts)
        await fail(live, 1)
        assert state_of(live) == "up"
        await fail(live, 1)
        assert state_of(live) == "ejected"
        assert fault in reason_of(live)
        assert (await ask(live)).json()["error"]["code"] == "no_worker"


async def test_breaker_ejects_a_worker_that_refuses_connections(gateway_for: GatewayFor) -> None:
    async with ScriptedWorker(b"") as gone:
        pass
    live = await gateway_for(breaker(consecutive_failures=1), workers=(gone.url,))
    await fail(live, 1)
    assert "upstream_connect_failed" in reason_of(live)
    assert "probe" in live.gateway.workers.all[0].conditions, "it is down, too"


async def test_breaker_ejects_a_worker_that_accepts_no_connections(gateway_for: GatewayFor) -> None:
    with full_backlog() as full:
        live = await gateway_for(breaker(), workers=(full,), timeouts=Timeouts(connect=0.05))
        await fail(live)
        assert "upstream_connect_timeout" in reason_of(live)


async def test_breaker_counts_failures_hidden_by_failover(
    gateway_for: GatewayFor, simulator: Simulator
) -> None:
    async with ScriptedWorker(refusal(503)) as worker:
        live = await gateway_for(breaker(), workers=(worker.url, simulator.url))
        for _ in range(4):
            assert (await ask(live)).status_code == 200
        assert (state_of(live, 0), state_of(live, 1)) == ("ejected", "up")
        assert len(worker.requests) == 2


REFUSALS = ("400 Bad Request", "401 No", "404 Not Found", "408 Slow", "422 No", "429 Later")


@pytest.mark.parametrize("status", [*REFUSALS, "501 Not Implemented", "505 HTTP Version"])
async def test_breaker_ignores_errors_caused_by_callers(
    gateway_for: GatewayFor, status: str
) -> None:
    async with ScriptedWorker(answer_of(b"{}", status=status)) as worker:
        options = breaker(consecutive_failures=1, error_rate=0.01, min_calls=1)
        live = await gateway_for(options, workers=(worker.url,))
        for _ in range(5):
            assert (await ask(live)).status_code == int(status[:3])
        assert state_of(live) == "up"


async def test_breaker_ignores_three_bad_requests_in_a_row(
    gateway_for: GatewayFor,
) -> None:
    live = await gateway_for(breaker(consecutive_failures=3))
    for _ in range(3):
        assert (await ask(live, max_tokens=-1)).status_code == 400
    assert (await ask(live)).status_code == 200


async def test_breaker_ignores_caller_disconnects(gateway_for: GatewayFor) -> None:
    async with ScriptedWorker(never_answer) as worker:
        live = await gateway_for(breaker(), Watcher, workers=(worker.url,))
        for count in range(1, 4):
            call = asyncio.create_task(ask(live))
            await until(lambda: worker.connections_open == 1)
            call.cancel()
            await live.plugin(Watcher).calls(count)
            await worker.connections[-1].wait_closed()
        assert state_of(live) == "up"


@steady
async def test_breaker_ignores_total_timeouts(gateway_for: GatewayFor) -> None:
    async with ScriptedWorker(never_answer) as worker:
        live = await gateway_for(breaker(), workers=(worker.url,), timeouts=Timeouts(total=0.05))
        for _ in range(3):
            assert (await ask(live)).json()["error"]["code"] == "upstream_total_timeout"
        assert state_of(live) == "up"


async def test_breaker_resets_consecutive_failures_on_success(gateway_for: GatewayFor) -> None:
    async with Moody() as worker:
        live = await gateway_for(breaker(error_rate=None), workers=(worker.url,))
        for well in (False, True, False, True, False):
            worker.well = well
            await ask(live)
        assert state_of(live) == "up"
        await ask(live)
        assert state_of(live) == "ejected"


async def test_breaker_ejects_a_worker_over_the_error_rate(gateway_for: GatewayFor) -> None:
    async with Moody() as worker:
        options = breaker(consecutive_failures=None, error_rate=0.5, min_calls=4)
        live = await gateway_for(options, workers=(worker.url,))
        for well in (False, True, True, False):
            assert state_of(live) == "up"
            worker.well = well
            await ask(live)
        assert state_of(live) == "ejected"
        assert "2 of 4 calls failed in 30 s, the latest: status 500" in reason_of(live)


# coming back


async def test_half_open_worker_gets_one_trial_at_a_time_and_recovers(
    gateway_for: GatewayFor, simulator: Simulator
) -> None:
    async with Moody() as worker:
        workers = (worker.url, simulator.url)
        live = await gateway_for(breaker(cooldown=AT_ONCE), workers=workers)
        await half_open(live, worker)
        worker.well = True
        worker.most = 0
        worker.gate.clear()
        calls = [asyncio.create_task(ask(live)) for _ in range(20)]
        await until(lambda: sum(call.done() for call in calls) == 19)
        worker.gate.set()
        assert all(answer.status_code == 200 for answer in await asyncio.gather(*calls))
        assert worker.most == 1
        assert state_of(live) == "half_open"
        while state_of(live) != "up":
            assert (await ask(live)).status_code == 200
        assert live.plugin(CircuitBreaker).changes.closed == 1


async def test_half_open_worker_rejects_calls_beside_its_trial(
    gateway_for: GatewayFor,
) -> None:
    async with Moody() as worker:
        live = await gateway_for(breaker(cooldown=AT_ONCE), workers=(worker.url,))
        await half_open(live, worker)
        worker.gate.clear()
        trial = asyncio.create_task(ask(live))
        await until(lambda: worker.held == 1)
        refused = await ask(live)
        assert refused.json()["error"]["code"] == "no_worker"
        assert refused.headers["retry-after"] == "1"
        worker.gate.set()
        await trial


async def test_half_open_trial_is_freed_if_its_caller_disconnects(
    gateway_for: GatewayFor,
) -> None:
    async with Moody() as worker:
        live = await gateway_for(breaker(cooldown=AT_ONCE), workers=(worker.url,))
        await half_open(live, worker)
        worker.well = True
        worker.gate.clear()
        trial = asyncio.create_task(ask(live))
        await until(lambda: worker.held == 1)
        trial.cancel()
        await until(lambda: live.gateway.workers.all[0].in_flight == 0)
        assert state_of(live) == "half_open"
        worker.gate.set()
        assert (await ask(live)).status_code == 200


async def test_breaker_ignores_calls_begun_before_the_ejection(gateway_for: GatewayFor) -> None:
    async with Moody() as worker:
        live = await gateway_for(breaker(cooldown=AT_ONCE), workers=(worker.url,))
        worker.holds = b"old"
        worker.gate.clear()
        old = [asyncio.create_task(ask(live, user="old")) for _ in range(4)]
        await until(lambda: worker.held == 4)
        await half_open(live, worker)
        worker.gate.set()
        assert all(answer.status_code == 500 for answer in await asyncio.gather(*old))
        assert state_of(live) == "half_open"
        worker.well = True
        for _ in range(2):
            assert (await ask(live)).status_code == 200
        assert state_of(live) == "up"
        worker.gate.clear()
        many = [asyncio.create_task(ask(live, user="old")) for _ in range(4)]
        await until(lambda: worker.held == 4)
        worker.gate.set()
        await asyncio.gather(*many)


async def test_calls_begun_before_the_ejection_use_no_trial_slot(gateway_for: GatewayFor) -> None:
    async with Moody() as worker:
        live = await gateway_for(breaker(cooldown=AT_ONCE), workers=(worker.url,))
        [watched] = live.gateway.workers.all
        worker.holds = b"held"
        worker.gate.clear()
        old = [asyncio.create_task(ask(live, user="held")) for _ in range(4)]
        await until(lambda: worker.held == 4)
        await half_open(live, worker)
        trial = asyncio.create_task(ask(live, user="held"))
        await until(lambda: worker.held == 5)
        old[0].cancel()
        await until(lambda: watched.in_flight == 4)
        assert (await ask(live)).json()["error"]["code"] == "no_worker"
        worker.gate.set()
        await asyncio.gather(trial, *old[1:])


async def test_breaker_lengthens_and_logs_each_ejection(
    gateway_for: GatewayFor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gateway.circuit_breaker")
    async with Moody() as worker:
        worker.well = False
        options = breaker(cooldown=0.01, max_cooldown=0.03, jitter=0)
        live = await gateway_for(options, workers=(worker.url,))
        await ask(live)
        for _ in range(4):
            await ask(live)
            await until(lambda: state_of(live) == "half_open")
        ejected = [one.message for one in caplog.records if "ejected for" in one.message]
        assert [line.split("ejected for ")[1] for line in ejected] == [
            "0.01 s",
            "0.02 s",
            "0.03 s",
            "0.03 s",
        ]
        assert "2 failures in a row, the latest: status 500" in ejected[0]
        assert "tried again, and failed (status 500)" in ejected[1]
        assert len(caplog.records) == 8
        changes = live.plugin(CircuitBreaker).changes
        assert (changes.ejected, changes.half_open, changes.closed) == (4, 4, 0)


async def test_health_workers_shows_an_ejection(gateway_for: GatewayFor) -> None:
    async with ScriptedWorker(FAULTS["status 500"]) as worker:
        live = await gateway_for(breaker(), workers=(worker.url,))
        await fail(live)
        [shown] = (await live.client.get("/health/workers")).json()["workers"]
        assert (shown["healthy"], shown["state"]) == (False, "ejected")
        assert "ejected for" in shown["conditions"]["circuit_breaker"]["reason"]
