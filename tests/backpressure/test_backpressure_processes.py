"""What one of several processes has of the workers' slots, and of the queue."""

from pathlib import Path

import pytest
from gateway_plugins.backpressure import Backpressure
from gateway_plugins.backpressure.dividing import part_of
from gateway_plugins.backpressure.options import Options, QueueOptions
from hypothesis import given
from hypothesis import strategies as st

from gateway import ConfigError, Gateway
from gateway.cluster.peers import Peers
from gateway.config import Config, StorageSettings, Worker
from gateway.simulator import Simulator
from gateway.testing import NO_PROBES, entry, live

COUNTS = st.integers(1, 16)


@given(COUNTS, st.integers(16, 5_000), st.integers(0, 5_000))
def test_limits_are_divided_fully_among_processes(count: int, slots: int, length: int) -> None:
    options = Options(
        max_in_flight_per_worker=slots,
        max_in_flight=slots + 1,
        max_in_flight_by_worker={"one": slots + 2, "free": None},
        queue=QueueOptions(max_length=length),
    )
    parts = [part_of(options, index, count) for index in range(count)]
    each = [one.max_in_flight_per_worker or 0 for one in parts]
    assert sum(each) == slots
    assert max(each) - min(each) <= 1
    assert sum(one.max_in_flight or 0 for one in parts) == slots + 1
    assert sum(one.max_in_flight_by_worker["one"] or 0 for one in parts) == slots + 2
    assert all(one.max_in_flight_by_worker["free"] is None for one in parts)
    queues = [one.queue.max_length for one in parts]
    assert sum(queues) == length if length >= count else set(queues) == {min(length, 1)}


def config_of(simulator: Simulator, **options: object) -> Config:
    return Config(
        workers=(Worker(url=simulator.url, worker_id="gpu-0"),),
        plugins=(entry("backpressure", **options),),
        storage=StorageSettings(path=":memory:"),
        probes=NO_PROBES,
    )


async def test_process_applies_and_shows_its_part_of_the_limits(
    simulator: Simulator, tmp_path: Path
) -> None:
    config = config_of(
        simulator, max_in_flight_per_worker=7, max_in_flight=9, queue={"max_length": 5}
    )
    for index, slots in ((0, (4, 5, 3)), (1, (3, 4, 2))):
        gateway = Gateway(config, peers=Peers(index, 2, tmp_path))
        async with live(gateway) as running:
            found = (await running.client.get("/admin/queue")).json()
            assert found["max_in_flight_by_worker"] == {"gpu-0": slots[0]}
            assert (found["max_in_flight"], found["max_length"]) == slots[1:]
            running.plugin(Backpressure).reconfigure(Options(max_in_flight_per_worker=2))
            assert gateway.workers.all[0].slots.limit == 1
            with pytest.raises(ConfigError, match="max_in_flight: 1 cannot be divided among 2"):
                running.plugin(Backpressure).reconfigure(Options(max_in_flight=1))
            assert gateway.workers.slots.limit is None


async def test_fewer_slots_than_processes_are_rejected(
    simulator: Simulator, tmp_path: Path
) -> None:
    config = config_of(simulator, max_in_flight_per_worker=3, max_in_flight_by_worker={"gpu-0": 2})
    with pytest.raises(ConfigError) as caught:
        async with live(Gateway(config, peers=Peers(0, 4, tmp_path))):
            pass
    said = str(caught.value)
    assert "plugin backpressure" in said
    assert "max_in_flight_per_worker: 3 cannot be divided among 4 processes" in said
    assert "max_in_flight_by_worker.gpu-0: 2 cannot be divided" in said
