"""The registry: which workers there are, which may get a call, and what follows a new file."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from support.plugins.recording_plugin import until

from gateway import ConfigError, Worker, create_app
from gateway.config import TLS, Config, StorageSettings, Timeouts
from gateway.config import Worker as Settings
from gateway.fleet.changes import NO_CHANGE, Change, Fields, Overlay
from gateway.fleet.registry import Workers
from gateway.fleet.slots import Slots
from gateway.testing import (
    MESSAGES,
    NO_PROBES,
    GatewayFor,
    ScriptedConnection,
    ScriptedWorker,
    answer_of,
    live,
)

CHAT = {"model": "sim", "messages": [dict(MESSAGES[0])], "max_tokens": 2}


def named(worker_id: str, **fields: Any) -> Settings:
    return Settings(url="http://h", worker_id=worker_id, **fields)


def registry(*workers: Settings | str) -> Workers:
    made = (named(one) if isinstance(one, str) else one for one in workers)
    return Workers(Config(workers=tuple(made)))


def ids(workers: Sequence[Worker]) -> list[str]:
    return [worker.id for worker in workers]


# Following a configuration


def test_plan_puts_workers_in_the_order_of_the_file() -> None:
    workers = registry("a", "b", "c")
    a, _, c = workers.all
    workers.plan(Config(workers=(named("c"), named("new"), named("a"))))()
    assert ids(workers.all) == ["c", "new", "a"]
    assert workers.all[0] is c
    assert workers.all[2] is a


def test_invalid_plan_changes_nothing_and_names_every_error() -> None:
    workers = registry("a", named("kept"))
    before = workers.all
    broken = TLS(ca_file="/nowhere.pem")
    wrong = [Settings(url="https://h", worker_id=name, tls=broken) for name in ("a", "new")]
    with pytest.raises(ConfigError) as raised:
        workers.plan(Config(workers=tuple(wrong)))
    assert [problem.split(": ")[1] for problem in raised.value.problems] == ["a", "new"]
    assert workers.all is before


def test_plan_changes_all_workers_at_once_when_it_is_applied() -> None:
    workers = registry("a", "b")
    told: list[list[str]] = []
    workers.changed.append(lambda: told.append(ids(workers.all)))
    follow = workers.plan(Config(workers=(named("b", weight=3.0), named("c"))))
    assert ids(workers.all) == ["a", "b"]
    assert told == []
    follow()
    assert told == [["b", "c"]]
    assert workers.all[0].weight == 3


def test_changed_worker_keeps_its_slots_and_conditions() -> None:
    workers = registry("a")
    [worker] = workers.all
    worker.slots.limit = 2
    assert worker.begin()
    worker.mark("breaker", "ejected", "it fails")
    workers.plan(Config(workers=(Settings(url="http://other:1/api", worker_id="a"),)))()
    assert workers.all == (worker,)
    assert (worker.url, worker.api_path, worker.in_flight) == ("http://other:1", "/api", 1)
    assert worker.info().state == "ejected"
    worker.end()
    assert (worker.in_flight, workers.slots.used) == (0, 0)


def test_worker_with_a_new_url_forgets_models_and_weight_version() -> None:
    workers = registry("a")
    [worker] = workers.all
    worker.models, worker.weight_version = frozenset(("m",)), 7
    workers.plan(Config(workers=(named("a", weight=2.0),)))()
    assert worker.models == {"m"}
    assert worker.weight_version == 7
    workers.plan(Config(workers=(Settings(url="http://other", worker_id="a"),)))()
    known = workers.all[0].info()
    assert (known.models, known.weight_version) == (None, None)


def test_models_in_the_settings_replace_probed_models() -> None:
    workers = registry("a")
    [worker] = workers.all
    worker.models = frozenset(("found",))
    workers.plan(Config(workers=(named("a", model_name="m", models=("n",)),)))()
    assert worker.info().models == ["m", "n"]
    workers.plan(Config(workers=(named("a"),)))()
    assert worker.info().models is None


def test_added_workers_stay_behind_the_workers_of_the_file() -> None:
    workers = registry("a")
    added = workers.add(named("added"))
    workers.plan(Config(workers=(named("b"),)))()
    assert ids(workers.all) == ["b", "added"]
    assert workers.all[1] is added


def test_removed_worker_is_not_restored_by_the_same_file() -> None:
    workers = registry("a", "b")
    workers.remove("a")
    workers.plan(Config(workers=(named("a"), named("b"))))()
    assert ids(workers.all) == ["b"]
    workers.add(named("a", weight=5.0))
    workers.plan(Config(workers=(named("a"), named("b"))))()
    assert ids(workers.all) == ["b", "a"]
    assert workers.all[1].weight == 5


def test_worker_added_and_removed_again_is_forgotten() -> None:
    workers = registry("a")
    workers.add(named("b"))
    workers.remove("b")
    workers.plan(Config(workers=(named("a"), named("b"))))()
    assert ids(workers.all) == ["a", "b"]


def test_plan_keeps_changes_made_before_it_is_applied() -> None:
    workers = registry("a")
    follow = workers.plan(Config(workers=(named("a"), named("b"))))
    workers.add(named("b", weight=2.0))
    workers.add(named("c"))
    workers.remove("a")
    follow()
    assert ids(workers.all) == ["b", "c"]
    assert workers.all[0].weight == 1, "the file has it now, so the file says how it is"


async def test_call_in_flight_ends_at_the_old_url_of_a_moved_worker(
    gateway_for: GatewayFor,
) -> None:
    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await until(lambda: moved)
        await connection.write(answer_of(b'{"object": "late"}'))
        await connection.read_request()

    moved = False
    async with ScriptedWorker(script) as old, ScriptedWorker(answer_of(b'{"object": "n"}')) as new:
        running = await gateway_for(workers=[Settings(url=old.url, worker_id="w")])
        workers = running.gateway.workers
        call = asyncio.create_task(running.client.post("/v1/chat/completions", json=CHAT))
        await until(lambda: len(old.requests) == 1)
        workers.plan(Config(workers=(Settings(url=new.url, worker_id="w"),)))()
        other = await running.client.post("/v1/chat/completions", json=CHAT)
        assert other.json() == {"object": "n"}
        moved = True
        assert (await call).json() == {"object": "late"}
        await until(lambda: old.connections_open == 0)
        assert new.connections_open == 1
        assert workers.slots.used == 0


async def test_headers_of_a_moved_worker_are_not_sent_to_its_old_url(
    gateway_for: GatewayFor,
) -> None:
    moves: list[None] = []

    async def script(connection: ScriptedConnection) -> None:
        """Answers, and breaks off at the second request on a connection, when it has moved."""
        await connection.read_request()
        await connection.write(answer_of(b"{}"))
        await connection.read_request()
        running.gateway.workers.plan(Config(workers=(there,)))()
        moves.append(None)

    async with ScriptedWorker(script) as old, ScriptedWorker(answer_of(b"{}")) as new:
        here = Settings(url=old.url, worker_id="w", headers={"x-key": "of the old"})
        there = Settings(url=new.url, worker_id="w", headers={"x-key": "of the new"})
        running = await gateway_for(workers=[here])
        for _ in range(2):
            assert (await running.client.get("/v1/models")).status_code == 200
        assert moves
        assert len(old.requests) == 3
        assert all(b"x-key: of the old\r\n" in request for request in old.requests)


async def test_changed_worker_closes_its_idle_connections(gateway_for: GatewayFor) -> None:
    async with ScriptedWorker(answer_of(b"{}")) as worker:
        settings = Settings(url=worker.url, worker_id="w")
        running = await gateway_for(workers=[settings])
        await running.client.get("/v1/models")
        again = Config(workers=(settings,))
        running.gateway.workers.plan(again)()
        assert worker.connections_open == 1, "nothing of it has changed"
        running.gateway.workers.plan(Config(workers=(settings,), timeouts=Timeouts(connect=1)))()
        await until(lambda: worker.connections_open == 0)
        assert (await running.client.get("/v1/models")).status_code == 200


def test_plan_rereads_tls_files(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(file))
    secure = Settings(url="https://h", worker_id="a", tls=TLS(ca_file=str(file)))
    workers = registry(secure, "b")
    a, b = (worker.pool for worker in workers.all)
    workers.plan(Config(workers=(secure, named("b"))))()
    assert workers.all[0].pool is not a
    assert workers.all[1].pool is b
    file.write_text("no certificate")
    with pytest.raises(ConfigError, match="workers: a: tls: "):
        workers.plan(Config(workers=(secure, named("b"))))


# What the admin interface changed, over a configuration

some_ids = st.sampled_from("abcd")
orders = st.tuples(st.sampled_from(["add", "remove", "patch", "drain", "undrain"]), some_ids)
files = st.lists(some_ids, unique=True).map(lambda found: tuple(named(one) for one in found))


def obey(overlay: Overlay, order: str, worker_id: str) -> Overlay:
    """As the admin interface does: what is there cannot be added, nor the rest be changed."""
    standing = {worker.worker_id for worker in overlay.standing()}
    if (worker_id in standing) == (order == "add"):
        return overlay
    change = {
        "add": lambda: overlay.added(named(worker_id, weight=2.0)),
        "remove": lambda: overlay.removed(worker_id),
        "patch": lambda: overlay.patched(worker_id, Fields(weight=3.0)),
        "drain": lambda: overlay.drained(worker_id, drained=True),
        "undrain": lambda: overlay.drained(worker_id, drained=False),
    }[order]()
    return overlay.having(worker_id, change)


@given(files, st.lists(orders), files)
def test_overlay_applies_admin_changes_to_any_file(
    file: tuple[Settings, ...], given: list[tuple[str, str]], later: tuple[Settings, ...]
) -> None:
    overlay = Overlay(file)
    for order, worker_id in given:
        before = {worker.worker_id: worker for worker in overlay.standing()}
        overlay = obey(overlay, order, worker_id)
        after = {worker.worker_id: worker for worker in overlay.standing()}
        assert before.keys() ^ after.keys() <= {worker_id}
        stays = order == "add" or (order != "remove" and worker_id in before)
        assert (worker_id in after) == stays
        if order == "patch" and worker_id in before:
            assert after[worker_id].weight == 3
        if order == "add" and worker_id not in before:
            assert after[worker_id].weight == 2
    assert all(change != NO_CHANGE for change in overlay.changes.values())
    written = {key: msgspec.json.encode(one) for key, one in overlay.changes.items()}
    read = {key: msgspec.json.decode(one, type=Change) for key, one in written.items()}
    for base in (file, later):
        found = Overlay(base, read).standing()
        assert found == Overlay(base, overlay.changes).standing(), "what is kept says the same"
        kept = [one.worker_id for one in base if not overlay.of(one.worker_id).removed]
        assert [worker.worker_id for worker in found][: len(kept)] == kept


def test_overlay_change_repr_hides_secrets() -> None:
    secret = Change(
        added=named("a", headers={"authorization": "hunter2"}),
        fields=Fields(headers={"authorization": "hunter2"}),
    )
    assert "hunter2" not in repr(secret)


# Slots, conditions, models


@given(st.lists(st.sampled_from(["take a", "take b", "give a", "give b"])))
def test_slots_never_exceed_their_limits(orders: list[str]) -> None:
    above = Slots()
    above.limit = 3
    slots = {"a": Slots(above), "b": Slots(above)}
    slots["a"].limit = 2
    held = {"a": 0, "b": 0}
    for order in orders:
        what, name = order.split()
        if what == "take":
            full = slots[name].full
            taken = slots[name].take()
            assert taken is not full
            held[name] += taken
        elif held[name]:
            slots[name].give()
            held[name] -= 1
        assert [slots[one].used for one in "ab"] == [held["a"], held["b"]]
        assert above.used == held["a"] + held["b"] <= 3
        assert held["a"] <= 2


def test_worker_is_fit_once_its_last_blocking_condition_clears() -> None:
    workers = registry("a", "b")
    a, b = workers.all
    a.mark("x", "down", "it does not answer")
    a.mark("y", "quarantined", "its weights are old")
    a.mark("z", "slow", "for your eyes only", blocks=False)
    assert ids(workers.serving().fit) == ["b"]
    assert ids(workers.serving().all) == ["a", "b"]
    a.clear("x")
    assert a.info().state == "quarantined"
    a.clear("y")
    assert (a.fit, a.info().state, a.info().healthy) == (True, "slow", True)
    a.clear("z")
    assert a.info().state == "up"
    assert workers.serving().fit == (a, b)


def test_listeners_are_notified_of_conditions_and_models() -> None:
    workers = registry("a")
    [worker] = workers.all
    told: list[bool] = []
    workers.changed.append(lambda: told.append(worker.fit))
    worker.mark("x", "down", "")
    worker.clear("x")
    worker.clear("x")
    worker.models = frozenset(("m",))
    worker.changed()
    assert told == [False, True, True]


def test_serving_view_is_cached_until_workers_change() -> None:
    workers = registry("a", named("b", models=("m",)))
    for model in (None, "m", "strange"):
        assert workers.serving(model) is workers.serving(model)
    before = workers.serving("m")
    workers.all[0].mark("x", "down", "")
    assert workers.serving("m") is not before
    assert ids(workers.serving("m").fit) == ["b"]


def test_serving_lists_workers_that_may_have_the_model() -> None:
    workers = registry(named("a", models=("m", "adapter")), named("b", model_name="n"))
    assert workers.mixed
    assert ids(workers.serving("adapter").all) == ["a"]
    assert ids(workers.serving("n").all) == ["b"]
    assert ids(workers.serving("none").all) == []
    workers.add(named("c"))
    assert ids(workers.serving("none").all) == ["c"], "nobody knows what it serves"
    assert ids(workers.serving("n").all) == ["b", "c"]
    assert ids(workers.serving().all) == ["a", "b", "c"]


def test_serving_caches_no_unknown_model_names() -> None:
    workers = registry(named("a", models=("m",)), "b")
    for number in range(1_000):
        assert ids(workers.serving(f"model-{number}").all) == ["b"]
    assert len(workers.views) == 1


async def test_local_worker_can_be_drained(gateway_for: GatewayFor) -> None:
    async def answer(_: dict[str, Any]) -> dict[str, Any]:
        return {"choices": []}

    app = create_app(
        Config(storage=StorageSettings(path=":memory:"), probes=NO_PROBES), local_handler=answer
    )
    async with live(app) as running:
        assert (await running.client.post("/v1/chat/completions", json=CHAT)).status_code == 200
        drained = await running.client.post("/admin/workers/local/drain")
        assert drained.json()["url"] == "local"
        refused = await running.client.post("/v1/chat/completions", json=CHAT)
        assert refused.json()["error"]["code"] == "no_worker"
        await running.client.post("/admin/workers/local/undrain")
        [local] = app.workers.all
        app.workers.serving()
        local.mark("breaker", "ejected", "it fails")
        refused = await running.client.post("/v1/chat/completions", json=CHAT)
        assert refused.json()["error"]["code"] == "no_worker"
        local.clear("breaker")
        app.workers.slots.limit = 1
        assert local.begin()
        assert not local.begin(), "its slots are among all"
        local.end()
        assert (await running.client.post("/v1/chat/completions", json=CHAT)).status_code == 200
        assert app.workers.slots.used == 0
