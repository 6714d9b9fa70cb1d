"""What is known of models from their loads: times, failures, pauses; kept over restarts."""

import time
from time import monotonic

import pytest
from gateway_plugins.runtime.memory.known import Memory
from gateway_plugins.runtime.memory.reported import NEVER, lasting
from gateway_plugins.runtime.memory.schema import MIGRATIONS
from gateway_plugins.runtime.options import Model, Restarts
from support.plugins.recording_plugin import until

from gateway import Host, Migrations, Storage, hookimpl
from gateway.testing import GatewayFor

MODELS = (Model(name="a", load_time=40.0), Model(name="b"))
RESTARTS = Restarts(first=5.0, longest=60.0, most=4)


class Tables:
    """Creates the tables of the plugin, and nothing else."""

    @hookimpl
    def migrations(self) -> Migrations:
        return MIGRATIONS


@pytest.fixture
async def storage(gateway_for: GatewayFor) -> Storage:
    host: Host = (await gateway_for(Tables)).gateway
    return host.storage


def memory_of(storage: Storage) -> Memory:
    return Memory(storage, MODELS, RESTARTS)


async def test_load_time_is_measured_averaged_and_kept_over_a_restart(storage: Storage) -> None:
    memory = memory_of(storage)
    assert (memory.load_seconds("a"), memory.load_seconds("b")) == (40.0, 60.0)
    await memory.loaded("a", 100.0)
    await memory.loaded("a", 200.0)
    assert memory.load_seconds("a") == pytest.approx(130.0)
    after = memory_of(storage)
    await after.read()
    assert after.load_seconds("a") == pytest.approx(130.0)
    assert after.load_seconds("b") == 60.0


async def test_pause_doubles_up_to_the_longest(storage: Storage) -> None:
    memory, pauses = memory_of(storage), []
    for _ in range(5):
        before = time.time()
        await memory.failed("a", "runtime_crashed", "exit status 1", None)
        pauses.append(memory.of("a").until - before)
    assert [round(pause) for pause in pauses] == [5, 10, 20, 60, 60]


async def test_failures_count_until_an_engine_has_lived_for_longer_than_the_longest_pause(
    storage: Storage,
) -> None:
    memory = Memory(storage, MODELS, Restarts(first=0.01, longest=0.05))
    for _ in range(3):
        await memory.failed("a", "runtime_crashed", "exit status 1", None)
        await memory.loaded("a", 1.0)
    assert memory.of("a").failures == 3
    later = monotonic() + 0.05
    await until(lambda: monotonic() > later)
    await memory.failed("a", "runtime_crashed", "exit status 1", None)
    assert memory.of("a").failures == 1


async def test_failure_is_not_prolonged_when_the_clock_is_set_back(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, now = memory_of(storage), time.time()
    await memory.failed("a", "runtime_crashed", "exit status 1", None)
    monkeypatch.setattr(time, "time", lambda: now - 7_200)
    assert memory.seconds_barred("a") < 6


async def test_kept_failure_outlives_a_restart_and_a_good_load_ends_it(storage: Storage) -> None:
    memory = memory_of(storage)
    await memory.failed("a", "runtime_oom", "no memory is left", 86_400.0)
    after = memory_of(storage)
    await after.read()
    known = after.of("a")
    assert (known.reason, known.failures) == ("runtime_oom", 1)
    assert known.until - time.time() > 86_000
    await after.loaded("a", 3.0)
    assert (known.reason, known.until, after.seconds_barred("a")) == (None, 0.0, 0.0)


async def test_failure_that_stays_is_forgiven_only_by_an_operator(storage: Storage) -> None:
    memory = memory_of(storage)
    await memory.failed("a", "access_denied", "the hub refuses", float("inf"))
    after = memory_of(storage)
    await after.read()
    assert after.of("a").until == float("inf")
    await after.forgive("a")
    assert (after.of("a").until, after.of("a").reason) == (0.0, None)


async def test_generations_are_never_given_twice(storage: Storage) -> None:
    memory, after = memory_of(storage), memory_of(storage)
    found = [await memory.next_generation("gpu"), await after.next_generation("gpu")]
    assert [*found, await after.next_generation("other")] == [1, 2, 1]


async def test_what_a_policy_saves_is_kept_for_its_runtime(storage: Storage) -> None:
    memory = memory_of(storage)
    assert await memory.saved("gpu") is None
    await memory.next_generation("gpu")
    assert await memory.saved("gpu") is None
    await memory.save("gpu", "one")
    await memory.save("gpu", "two")
    assert (await memory.saved("gpu"), await memory.saved("other")) == ("two", None)
    assert await memory.next_generation("gpu") == 2


async def test_only_a_model_that_the_hub_refuses_is_tried_again_for_later_work(
    storage: Storage,
) -> None:
    memory, before = memory_of(storage), time.time()
    await memory.failed("a", "access_denied", "403", NEVER)
    await memory.failed("b", "model_incompatible", "no implementation", 30 * 86_400.0)
    found = lasting(memory, "ab")
    assert before <= found["a"][1] <= time.time()
    assert found["b"] == ("the model could not be loaded (model_incompatible)", NEVER)
    await memory.forgive("a")
    assert list(lasting(memory, "ab")) == ["b"]
