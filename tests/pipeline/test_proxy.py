"""`dispatch`, without HTTP to its caller: calls made by hand, callers that keep what they get."""

from collections.abc import Sequence

import pytest
from support.gateways.dispatching import code_of, dispatch, gateway_of, plugin_of
from support.plugins.recording_plugin import Watcher

from gateway import Attempt, Call, Forbidden, Headers, Outcome, Principal, hookimpl
from gateway import Worker as RunningWorker
from gateway.config import Timeouts
from gateway.simulator import Faults, Simulator, SimulatorConfig
from gateway.testing import RecordedCall, ScriptedConnection, ScriptedWorker, answer_of, make_call


class Story:
    """Writes down what it is told, and whether the caller has its answer by then."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.ended_before: list[bool] = []

    @hookimpl
    async def authenticate(self, call: Call) -> Principal:
        self.told.append("authenticate")
        return Principal("anybody")

    @hookimpl
    async def admit(self, call: Call) -> None:
        self.told.append("admit")

    @hookimpl
    async def prepare(self, call: Call) -> None:
        self.told.append("prepare")

    @hookimpl
    async def handle(self, call: Call) -> None:
        self.told.append("handle")

    @hookimpl
    async def filter_workers(
        self, call: Call, workers: Sequence[RunningWorker]
    ) -> Sequence[RunningWorker]:
        self.told.append(f"filter_workers of {len(workers)}")
        return workers

    @hookimpl
    async def pick_worker(self, call: Call, workers: Sequence[RunningWorker]) -> RunningWorker:
        self.told.append("pick_worker")
        return workers[0]

    @hookimpl
    async def attempt_finished(self, call: Call, attempt: Attempt) -> None:
        self.told.append("attempt_finished")

    @hookimpl
    def observe(self, call: Call) -> object:
        self.told.append("observe")
        return self

    def started(self, status: int, headers: Headers) -> None:
        self.told.append("started")

    def data(self, chunk: bytes) -> None:
        self.told.append("data")

    def finished(self, outcome: Outcome) -> None:
        self.told.append("finished")

    @hookimpl
    async def call_finished(self, call: RecordedCall, outcome: Outcome) -> None:
        self.told.append("call_finished")
        self.ended_before.append(call.caller.is_ended)


async def test_dispatch_runs_the_hooks_in_order() -> None:
    async with (
        ScriptedWorker(answer_of(b"{}")) as worker,
        gateway_of(Story, workers=[worker.url]) as gateway,
    ):
        await dispatch(gateway)
        story = plugin_of(gateway, Story)
    assert story.told == [
        "authenticate",
        "admit",
        "prepare",
        "observe",
        "handle",
        "filter_workers of 1",
        "pick_worker",
        "started",
        "data",
        "attempt_finished",
        "finished",
        "call_finished",
    ]


async def test_last_byte_is_sent_after_call_finished() -> None:
    async with (
        ScriptedWorker(answer_of(b"{}")) as worker,
        gateway_of(Story, workers=[worker.url]) as gateway,
    ):
        call = await dispatch(gateway)
        assert plugin_of(gateway, Story).ended_before == [False]
    assert call.caller.chunks == [b"{}"]
    assert call.caller.is_ended


async def test_rejected_call_is_recorded() -> None:
    async with gateway_of(Refusing, Story) as gateway:
        call = await dispatch(gateway)
        assert plugin_of(gateway, Story).told == ["call_finished"]
    assert code_of(call) == (403, "permission_denied")
    assert (call.outcome.status, call.outcome.complete) == (403, False)
    assert isinstance(call.outcome.error, Forbidden)


class Refusing:
    @hookimpl
    async def authenticate(self, call: Call) -> Principal:
        raise Forbidden("not today")


# attempts and outcomes


async def test_outcome_describes_a_successful_call() -> None:
    async with Simulator() as sim, gateway_of(Reading, workers=[sim.url]) as gateway:
        call = await dispatch(gateway)
    outcome = call.outcome
    assert (outcome.status, outcome.complete, outcome.caller_gone) == (200, True, False)
    assert outcome.error is None
    assert outcome.failures == []
    assert outcome.bytes_sent == len(call.caller.body)
    assert outcome.ttft is not None
    assert 0 < outcome.ttft <= outcome.duration
    assert outcome.usage is not None
    assert outcome.usage.prompt_tokens > 0


class Reading:
    """Wants answers read, so that their usage is known."""

    @hookimpl
    def observe(self, call: Call) -> object:
        return self

    def delta(self, delta: object) -> None:
        pass


async def test_attempts_record_their_timings() -> None:
    async with Simulator() as sim, gateway_of(workers=[sim.url]) as gateway:
        calls = [await dispatch(gateway) for _ in range(2)]
        [worker] = gateway.workers.all
    attempts = [attempt for call in calls for attempt in call.attempts]
    assert [attempt.reused for attempt in attempts] == [False, True]
    for attempt in attempts:
        times = [attempt.started, attempt.connected, attempt.first_byte, attempt.ended]
        known = [time for time in times if time is not None]
        assert len(known) == 4
        assert known == sorted(known)
        assert (attempt.worker, attempt.status, attempt.error) == (worker, 200, None)
    assert worker.in_flight == 0


async def test_attempt_without_a_connection_has_no_timings() -> None:
    async with (
        Simulator(SimulatorConfig(faults=Faults.parse("refuse"))) as sim,
        gateway_of(workers=[sim.url]) as gateway,
    ):
        [attempt] = (await dispatch(gateway)).attempts
    assert (attempt.connected, attempt.first_byte, attempt.status) == (None, None, None)
    assert attempt.ended is not None
    assert attempt.error is not None
    assert attempt.error.code == "upstream_connect_failed"


async def test_worker_counts_a_call_in_flight() -> None:
    seen: list[int] = []

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        seen.append(gateway.workers.all[0].in_flight)
        await connection.write(answer_of(b"{}"))

    async with ScriptedWorker(script) as worker, gateway_of(workers=[worker.url]) as gateway:
        await dispatch(gateway)
        assert seen == [1]
        assert gateway.workers.all[0].in_flight == 0


# another try


async def test_failed_connect_tries_the_other_workers_in_turn() -> None:
    refusing = SimulatorConfig(faults=Faults.parse("refuse"))
    async with (
        Simulator(refusing) as one,
        Simulator(refusing) as two,
        Simulator() as three,
        gateway_of(Story, Watcher, workers=[one.url, two.url, three.url]) as gateway,
    ):
        call = await dispatch(gateway)
        told = plugin_of(gateway, Story).told
        watched = plugin_of(gateway, Watcher).attempts
    assert call.caller.status == 200
    filters = [line for line in told if line.startswith("filter")]
    assert filters == ["filter_workers of 3", "filter_workers of 2", "filter_workers of 1"]
    assert told.count("attempt_finished") == 3
    assert call.attempts == watched
    assert [attempt.error is None for attempt in watched] == [False, False, True]


@pytest.mark.parametrize("fault", ["reset-before", "garbage", "500", "hang"])
async def test_worker_that_may_have_received_the_call_is_not_replaced(fault: str) -> None:
    failing = SimulatorConfig(faults=Faults.parse(fault))
    timeouts = Timeouts(first_byte=0.1)
    async with (
        Simulator(failing) as one,
        Simulator(failing) as two,
        gateway_of(workers=[one.url, two.url], timeouts=timeouts) as gateway,
    ):
        call = await dispatch(gateway)
    assert call.caller.status >= 500
    assert len(call.attempts) == 1
    assert one.stats.accepted + two.stats.accepted == 1


class DeadOnReuse:
    """A worker's script: the first connection serves one call and resets at the next."""

    def __init__(self, before_the_reset: bytes) -> None:
        self._before_the_reset = before_the_reset
        self._first = True

    async def __call__(self, connection: ScriptedConnection) -> None:
        first, self._first = self._first, False
        while True:
            await connection.read_request()
            await connection.write(answer_of(b"{}"))
            if first:
                await connection.read_request()
                await connection.write(self._before_the_reset)
                connection.reset()
                return


async def test_dead_pooled_connection_is_retried_without_an_error() -> None:
    async with (
        ScriptedWorker(DeadOnReuse(b"")) as worker,
        gateway_of(workers=[worker.url]) as gateway,
    ):
        asked = [make_call(b"", path="/v1/models", method="GET") for _ in range(2)]
        calls = [await dispatch(gateway, call) for call in asked]
        assert len(worker.connections) == 2
    assert [call.caller.status for call in calls] == [200, 200]
    [attempt] = calls[1].attempts
    assert (attempt.error, attempt.reused) == (None, False)
    assert len(worker.requests) == 3


async def test_pooled_connection_cut_amid_a_response_is_an_error() -> None:
    async with (
        ScriptedWorker(DeadOnReuse(b"HTTP/1.1 ")) as worker,
        gateway_of(workers=[worker.url]) as gateway,
    ):
        await dispatch(gateway)
        assert code_of(await dispatch(gateway)) == (502, "upstream_closed")
        assert len(worker.connections) == 1
