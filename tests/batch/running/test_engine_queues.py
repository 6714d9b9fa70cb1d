"""How many calls wait within engines, as their metrics say."""

import asyncio

import pytest
from gateway_plugins.batch.options import Options
from gateway_plugins.batch.running.engine_queues import EngineQueues, waiting_in
from gateway_plugins.batch.running.pace import Pace
from hypothesis import given
from hypothesis import strategies as st
from support.workers.failing_worker import unreachable

from gateway import Worker, Workers
from gateway.config import Config
from gateway.config import Worker as WorkerConfig
from gateway.simulator import Simulator, SimulatorConfig
from gateway.testing import ScriptedWorker, answer_of

METRICS = {
    "vllm": b"""# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_running{engine="0",model_name="m"} 32.0
vllm:num_requests_waiting{engine="0",model_name="m"} 3.0
vllm:num_requests_waiting{engine="1",model_name="m"} 4.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 3.0
""",
    "sglang": b'sglang:num_queue_reqs{model_name="m",engine_type="unified"} 7.0\n',
    "llama.cpp": b"llamacpp:requests_processing 1\nllamacpp:requests_deferred 7\n",
    "tgi": b"tgi_queue_size 7\n",
}


class Noting(Pace):
    """Keeps what it is told."""

    def __init__(self, workers: Workers) -> None:
        super().__init__(workers, Options(), 1, list)
        self.noted: list[int] = []

    def note_queue(self, worker: Worker, waiting: int) -> None:
        self.noted.append(waiting)
        super().note_queue(worker, waiting)


def looking_at(*urls: str) -> tuple[EngineQueues, Noting, Workers]:
    workers = Workers(Config(workers=tuple(WorkerConfig(url=url) for url in urls)))
    pace = Noting(workers)
    return EngineQueues(pace, "/metrics"), pace, workers


@pytest.mark.parametrize("engine", METRICS)
async def test_engines_tell_how_many_calls_wait_in_them(engine: str) -> None:
    async with ScriptedWorker(answer_of(METRICS[engine], content_type="text/plain")) as worker:
        queues, pace, workers = looking_at(worker.url)
        await queues.look(workers.all)
        assert pace.noted == [7]
        assert worker.requests[0].startswith(b"GET /metrics HTTP/1.1")
        workers.close()


async def test_the_simulator_tells_as_vllm_does() -> None:
    async with Simulator(SimulatorConfig()) as simulator:
        queues, pace, workers = looking_at(simulator.url)
        await queues.look(workers.all)
        assert pace.noted == [0]
        workers.close()


@pytest.mark.parametrize(
    "answer",
    [
        answer_of(b"{}", status="404 Not Found"),
        answer_of(b"process_open_fds 7\n"),
        answer_of(METRICS["vllm"], status="500 No"),
        answer_of(b"vllm:num_requests_waiting NaN\n"),
    ],
)
async def test_an_engine_that_does_not_tell_is_left_alone(answer: bytes) -> None:
    async with ScriptedWorker(answer) as worker:
        queues, pace, workers = looking_at(worker.url)
        for _ in range(3):
            await queues.look(workers.all)
        assert pace.noted == []
        assert len(worker.requests) == 1
        workers.close()


async def test_an_engine_that_cannot_be_reached_keeps_no_other_from_being_asked() -> None:
    async with ScriptedWorker(answer_of(METRICS["tgi"])) as worker:
        with unreachable() as url:
            queues, pace, workers = looking_at(url, worker.url)
            async with asyncio.timeout(30):
                await queues.look(workers.all)
        assert pace.noted == [7]
        workers.close()


@given(st.binary(max_size=20) | st.sampled_from([b"e", b"1e999", b"NaN", b"1.1.1", b"-1"]))
def test_waiting_calls_of_any_metrics_are_a_number_or_unknown(value: bytes) -> None:
    waiting = waiting_in(b"tgi_queue_size " + value + b"\n")
    assert waiting is None or waiting >= 0
