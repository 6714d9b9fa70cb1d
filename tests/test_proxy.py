"""`dispatch`, without HTTP to its caller: calls made by hand, callers that keep what they get."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

import msgspec
import pytest
from watching import Watcher, until

from gateway import Answer, Attempt, Call, Forbidden, Gateway, Headers, Outcome, Principal, hookimpl
from gateway import Worker as RunningWorker
from gateway.config import Config, Limits, Timeouts, Worker
from gateway.simulator import Faults, Simulator, SimulatorConfig
from gateway.testing import (
    DONE,
    RecordedCall,
    ScriptedConnection,
    ScriptedWorker,
    answer_of,
    entry,
    make_call,
    sse,
)

T = TypeVar("T")

DEFAULT = Timeouts()
SHORT = Timeouts(idle=0.1)
NO_LIMITS = Limits()
SSE: Headers = [(b"content-type", b"text/event-stream")]
JSON: Headers = [(b"content-type", b"application/json")]
EVENT = sse({"choices": []})


@contextlib.asynccontextmanager
async def gateway_of(
    *plugins: type,
    workers: Sequence[str] = (),
    timeouts: Timeouts = DEFAULT,
    limits: Limits = NO_LIMITS,
) -> AsyncIterator[Gateway]:
    config = Config(
        workers=tuple(Worker(url=url) for url in workers),
        plugins=tuple(entry(plugin) for plugin in plugins),
        timeouts=timeouts,
        limits=limits,
    )
    async with Gateway(config) as gateway:
        yield gateway


def plugin_of(gateway: Gateway, kind: type[T]) -> T:
    [found] = [one.object for one in gateway.plugins.loaded if isinstance(one.object, kind)]
    return found


def chat(**headers: str) -> RecordedCall:
    return make_call(headers={"content-type": "application/json", **headers})


async def dispatch(gateway: Gateway, call: RecordedCall | None = None) -> RecordedCall:
    call = call or chat()
    await gateway.proxy.dispatch(call)
    assert call not in gateway.proxy.in_flight
    return call


def code_of(call: RecordedCall) -> tuple[int, str]:
    """What the caller was told, as a whole answer of the gateway's own."""
    assert call.caller.is_ended
    code = msgspec.json.decode(call.caller.body)["error"]["code"]
    return call.caller.status, code


def mid_stream_code(call: RecordedCall) -> str:
    assert call.caller.is_cut
    assert not call.caller.is_ended
    code: str = msgspec.json.decode(call.caller.body.partition(b"event: error\ndata: ")[2])[
        "error"
    ]["code"]
    return code


# the story of a call


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


async def test_the_hooks_run_in_this_order() -> None:
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


async def test_the_last_byte_waits_until_the_call_is_recorded() -> None:
    async with (
        ScriptedWorker(answer_of(b"{}")) as worker,
        gateway_of(Story, workers=[worker.url]) as gateway,
    ):
        call = await dispatch(gateway)
        assert plugin_of(gateway, Story).ended_before == [False]
    assert call.caller.chunks == [b"{}"]
    assert call.caller.is_ended


async def test_a_refusal_is_recorded_too() -> None:
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


async def test_the_outcome_of_a_call_that_went_well() -> None:
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


async def test_attempts_say_how_far_they_got() -> None:
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


async def test_an_attempt_that_was_refused_got_nowhere() -> None:
    async with (
        Simulator(SimulatorConfig(faults=Faults.parse("refuse"))) as sim,
        gateway_of(workers=[sim.url]) as gateway,
    ):
        [attempt] = (await dispatch(gateway)).attempts
    assert (attempt.connected, attempt.first_byte, attempt.status) == (None, None, None)
    assert attempt.ended is not None
    assert attempt.error is not None
    assert attempt.error.code == "upstream_connect_failed"


async def test_the_worker_is_in_flight_while_it_works() -> None:
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


async def test_after_a_failed_connect_the_others_are_asked_in_turn() -> None:
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
async def test_a_worker_that_may_have_seen_the_call_is_not_replaced(fault: str) -> None:
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


async def test_a_kept_connection_that_was_dead_is_no_failure() -> None:
    async with (
        ScriptedWorker(DeadOnReuse(b"")) as worker,
        gateway_of(workers=[worker.url]) as gateway,
    ):
        calls = [await dispatch(gateway, make_call(b'{"n": 1}')) for _ in range(2)]
        assert len(worker.connections) == 2
    assert [call.caller.status for call in calls] == [200, 200]
    [attempt] = calls[1].attempts
    assert (attempt.error, attempt.reused) == (None, False)
    assert all(request.endswith(b'{"n": 1}') for request in worker.requests)
    assert len(worker.requests) == 3


async def test_one_that_had_begun_to_answer_is_a_failure() -> None:
    async with (
        ScriptedWorker(DeadOnReuse(b"HTTP/1.1 ")) as worker,
        gateway_of(workers=[worker.url]) as gateway,
    ):
        await dispatch(gateway)
        assert code_of(await dispatch(gateway)) == (502, "upstream_closed")
        assert len(worker.connections) == 1


# answers of `handle`


class Canned:
    """Answers with what the test puts into `answer`."""

    answer = Answer()

    @hookimpl
    async def handle(self, call: Call) -> Answer:
        return self.answer


async def handled(gateway: Gateway, answer: Answer, call: RecordedCall | None = None) -> Call:
    plugin_of(gateway, Canned).answer = answer
    return await dispatch(gateway, call)


async def events(*after: Exception) -> AsyncIterator[bytes]:
    for _ in range(3):
        yield EVENT
    for error in after:
        raise error
    yield DONE


async def test_a_whole_answer_without_a_worker() -> None:
    async with gateway_of(Canned, Watcher) as gateway:
        call = chat()
        await handled(gateway, Answer(201, JSON, b"{}"), call)
        assert plugin_of(gateway, Watcher).attempts == []
    assert (call.caller.status, call.caller.body, call.caller.is_ended) == (201, b"{}", True)
    assert call.outcome.complete
    assert (b"x-request-id", call.id.encode()) in call.caller.headers


async def test_a_streamed_answer_without_a_worker() -> None:
    async with gateway_of(Canned) as gateway:
        call = chat()
        await handled(gateway, Answer(headers=SSE, body=events()), call)
    assert call.caller.chunks == [EVENT, EVENT, EVENT, DONE]
    assert call.outcome.complete


@pytest.mark.parametrize(
    ("error", "code"),
    [(Forbidden("enough"), "permission_denied"), (ValueError("oops"), "internal_error")],
)
async def test_a_streamed_answer_that_fails(error: Exception, code: str) -> None:
    async with gateway_of(Canned) as gateway:
        call = chat()
        await handled(gateway, Answer(headers=SSE, body=events(error)), call)
    assert call.caller.body.startswith(EVENT * 3)
    assert mid_stream_code(call) == code
    assert not call.outcome.complete


async def silent() -> AsyncIterator[bytes]:
    yield EVENT
    await asyncio.Event().wait()


async def test_a_streamed_answer_that_falls_silent() -> None:
    async with gateway_of(Canned, timeouts=SHORT) as gateway:
        call = chat()
        await handled(gateway, Answer(headers=SSE, body=silent()), call)
    assert mid_stream_code(call) == "upstream_idle_timeout"


async def test_a_streamed_answer_waits_for_its_caller() -> None:
    async with gateway_of(Canned) as gateway:
        call = chat()
        call.caller.is_full = True
        answer = Answer(headers=SSE, body=events())
        running = asyncio.create_task(handled(gateway, answer, call))
        for count in (1, 2, 3):
            await until(lambda count=count: len(call.caller.chunks) == count)  # type: ignore[misc]
            call.caller.drained()
        await running
    assert call.caller.body == EVENT * 3 + DONE


async def test_a_caller_who_takes_nothing_of_it_is_given_up() -> None:
    async with gateway_of(Canned, timeouts=SHORT) as gateway:
        call = chat()
        call.caller.is_full = True
        await handled(gateway, Answer(headers=SSE, body=events()), call)
    assert call.caller.chunks == [EVENT]
    assert call.caller.is_cut
    assert call.outcome.caller_gone


# refusals of the core's own


async def test_without_workers_there_is_no_worker() -> None:
    async with gateway_of() as gateway:
        call = await dispatch(gateway)
    assert code_of(call) == (503, "no_worker")
    assert (b"retry-after", b"1") in call.caller.headers
    assert call.attempts == []


@contextlib.asynccontextmanager
async def waiting(gateway: Gateway) -> AsyncIterator[RecordedCall]:
    """A call that is in flight all the while; at the end it is awaited."""
    call = chat()
    running = asyncio.create_task(gateway.proxy.dispatch(call))
    await until(lambda: bool(call.attempts))
    yield call
    await running


async def test_max_calls() -> None:
    async with (
        Simulator(SimulatorConfig(ttft=60)) as sim,
        gateway_of(workers=[sim.url], limits=Limits(max_calls=1)) as gateway,
    ):
        async with waiting(gateway) as first:
            assert code_of(await dispatch(gateway)) == (503, "too_many_calls")
            first.lifeline.cut(Forbidden("make room"))
        ended = await dispatch(gateway, make_call(path="/v1/models", method="GET"))
    assert ended.caller.status == 200


async def test_drain_lets_what_is_in_flight_finish() -> None:
    release = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await release.wait()
        await connection.write(answer_of(b"{}"))

    async with ScriptedWorker(script) as worker, gateway_of(workers=[worker.url]) as gateway:
        async with waiting(gateway) as call:
            draining = asyncio.create_task(gateway.drain(None))
            await until(lambda: gateway.proxy.draining)
            assert code_of(await dispatch(gateway)) == (503, "draining")
            assert not draining.done()
            release.set()
        await draining
    assert call.caller.status == 200


async def test_drain_ends_what_is_left() -> None:
    async with (
        Simulator(SimulatorConfig(ttft=60)) as sim,
        gateway_of(Watcher, workers=[sim.url]) as gateway,
    ):
        async with waiting(gateway) as call:
            await gateway.drain(0.01)
        assert plugin_of(gateway, Watcher).outcomes == [call.outcome]
    assert code_of(call) == (503, "draining")


async def test_a_cancelled_dispatch_is_recorded_and_forgotten() -> None:
    async with (
        Simulator(SimulatorConfig(ttft=60)) as sim,
        gateway_of(Watcher, workers=[sim.url]) as gateway,
    ):
        call = chat()
        running = asyncio.create_task(gateway.proxy.dispatch(call))
        await until(lambda: bool(call.attempts))
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        watcher = plugin_of(gateway, Watcher)
        assert (len(watcher.attempts), watcher.outcomes) == (1, [call.outcome])
        assert gateway.proxy.in_flight == set()
        assert gateway.workers.all[0].in_flight == 0
        await sim.idle()
    assert not call.outcome.complete


# hooks that break


class Broken:
    """Breaks in the hook that the caller names."""

    @hookimpl
    async def admit(self, call: Call) -> None:
        self._break(call, "admit")

    @hookimpl
    def observe(self, call: Call) -> object | None:
        self._break(call, "observe")
        return self if call.header("x-break") == "finished" else None

    def finished(self, outcome: Outcome) -> None:
        raise ValueError("broken on purpose")

    @hookimpl
    async def attempt_finished(self, call: Call, attempt: Attempt) -> None:
        self._break(call, "attempt_finished")

    @hookimpl
    async def call_finished(self, call: Call, outcome: Outcome) -> None:
        self._break(call, "call_finished")

    def _break(self, call: Call, where: str) -> None:
        if call.header("x-break") == where:
            raise ValueError("broken on purpose")


async def test_no_worker_sees_a_call_whose_deciding_hook_broke() -> None:
    async with Simulator() as sim, gateway_of(Broken, Watcher, workers=[sim.url]) as gateway:
        call = await dispatch(gateway, chat(**{"x-break": "admit"}))
        assert plugin_of(gateway, Watcher).outcomes == [call.outcome]
    assert code_of(call) == (500, "hook_failed")
    assert sim.stats.accepted == 0


@pytest.mark.parametrize("where", ["observe", "attempt_finished", "finished", "call_finished"])
async def test_a_watching_hook_that_broke_is_noted_and_harms_nobody(where: str) -> None:
    async with Simulator() as sim, gateway_of(Broken, Watcher, workers=[sim.url]) as gateway:
        call = await dispatch(gateway, chat(**{"x-break": where}))
        watcher = plugin_of(gateway, Watcher)
        assert (len(watcher.attempts), len(watcher.outcomes)) == (1, 1)
    assert call.caller.status == 200
    assert call.caller.is_ended
    assert call.outcome.complete
    assert call.outcome.failures == ["Broken"]
