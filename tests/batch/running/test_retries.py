"""Which failed calls of an item are repeated, and when: fault 3.8 of the contract."""

import itertools
import time
from collections.abc import Callable
from email.utils import formatdate

import pytest
from support.plugins.recording_plugin import Watcher, until
from support.records.queued_items import new_item
from support.records.run_items import answer_of, ended, queue, quick, run
from support.steady import steady
from support.workers.failing_worker import closes, refusal, resets
from support.workers.restarting_worker import restarting

from gateway.testing import GatewayFor, ScriptedConnection, ScriptedWorker, entry
from gateway.testing import answer_of as answering

OK = answering(b'{"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5}}')
REFUSED = b'{"error":{"message":"no such field","type":"x","param":null,"code":"y"}}'


class Mood:
    """A worker's script: the answers in order, one a call, and the last for ever; `calls` counts.

    `times` are those when the calls came.
    """

    def __init__(self, *answers: bytes) -> None:
        self.times: list[float] = []
        self._answers = itertools.chain(answers[:-1], itertools.repeat(answers[-1]))

    @property
    def calls(self) -> int:
        return len(self.times)

    async def __call__(self, connection: ScriptedConnection) -> None:
        while True:
            await connection.read_request()
            self.times.append(time.monotonic())
            await connection.write(next(self._answers))


@pytest.mark.parametrize("status", [400, 401, 404, 409, 413, 422, 425])
async def test_fault_3_8_a_4xx_is_never_repeated_and_its_status_and_body_are_kept(
    gateway_for: GatewayFor, status: int
) -> None:
    mood = Mood(refusal(status, body=REFUSED))
    async with ScriptedWorker(mood) as worker:
        live = await gateway_for(quick(), workers=[worker.url])
        [item] = await run(live, new_item())
        assert (item.state, item.status, item.attempts) == (3, status, 1)
        assert await answer_of(live, item) == REFUSED
        assert item.last_error is not None
        assert item.last_error.message == "no such field"
        assert mood.calls == 1


@pytest.mark.parametrize("status", [408, 500, 502, 504])
async def test_fault_3_8_a_fault_of_the_worker_is_repeated_up_to_three_attempts(
    gateway_for: GatewayFor, status: int
) -> None:
    mood = Mood(refusal(status, body=REFUSED))
    async with ScriptedWorker(mood) as worker:
        live = await gateway_for(quick(), workers=[worker.url])
        [item] = await run(live, new_item())
        assert (item.state, item.status, item.attempts, item.charged) == (3, status, 3, 3)
        assert await answer_of(live, item) == REFUSED
        assert mood.calls == 3


@pytest.mark.parametrize("script", [closes, resets])
async def test_an_item_whose_engine_dies_under_it_is_repeated_up_to_three_attempts(
    gateway_for: GatewayFor, script: object
) -> None:
    async with ScriptedWorker(script) as worker:  # type: ignore[arg-type]
        live = await gateway_for(quick(), workers=[worker.url])
        [item] = await run(live, new_item())
        assert (item.state, item.status, item.attempts) == (3, 502, 3)
        body = await answer_of(live, item)
        assert b'"upstream_closed"' in (body or b"")


async def test_an_item_that_was_broken_off_in_its_response_keeps_the_error_and_no_part_of_it(
    gateway_for: GatewayFor,
) -> None:
    async def breaks_off(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.write(answering(b'{"choices": [' + b" " * 2000 + b"]}")[:-500])

    async with ScriptedWorker(breaks_off) as worker:
        live = await gateway_for(quick(max_attempts=1), workers=[worker.url])
        [item] = await run(live, new_item())
        assert (item.state, item.status) == (3, 502)
        assert b'"upstream_closed"' in (await answer_of(live, item) or b"")


@pytest.mark.parametrize("status", [429, 503])
async def test_an_item_that_was_not_run_waits_and_is_not_charged(
    gateway_for: GatewayFor, status: int
) -> None:
    mood = Mood(*[refusal(status)] * 5, OK)
    async with ScriptedWorker(mood) as worker:
        live = await gateway_for(quick(max_attempts=1), workers=[worker.url])
        [item] = await run(live, new_item())
        assert (item.state, item.status, item.attempts) == (2, 200, 6)
        assert mood.calls == 6


async def test_items_wait_for_a_worker_that_nobody_can_connect_to(gateway_for: GatewayFor) -> None:
    async with restarting() as worker:
        worker.kill()
        watcher = entry(Watcher)
        live = await gateway_for(quick(max_attempts=1), watcher, workers=[worker.url])
        ids = await queue(live, *[new_item() for _ in range(20)])
        await live.plugin(Watcher).calls(1)
        await until(lambda: not live.gateway.workers.fit)
        await worker.become("well")
        items = await ended(live, ids)
        assert {(item.state, item.status) for item in items} == {(2, 200)}
        assert max(item.attempts for item in items) > 1


def at(seconds: float) -> str:
    return formatdate(time.time() + seconds, usegmt=True)


@pytest.mark.parametrize(
    ("told", "least"),
    [
        (lambda: "1", 1.0),
        (lambda: at(3), 0.5),
        (lambda: at(-2), 0.0),
        (lambda: "soon", 0.0),
        (lambda: "-5", 0.0),
    ],
    ids=["seconds", "date", "past", "word", "negative"],
)
@steady
async def test_fault_3_8_an_item_waits_as_long_as_retry_after_says(
    gateway_for: GatewayFor, told: Callable[[], str], least: float
) -> None:
    mood = Mood(refusal(503, f"retry-after: {told()}"), OK)
    async with ScriptedWorker(mood) as worker:
        live = await gateway_for(quick(max_pause=60.0), workers=[worker.url])
        [item] = await run(live, new_item())
        first, second = mood.times
        assert item.state == 2
        assert least <= second - first < least + 3
