"""What a trainer tells its server reaches every worker, and who missed it serves nobody."""

import asyncio
from collections.abc import Sequence

import httpx
import msgspec
import pytest
from support.callers.raw_client import RawClient, head_of
from support.plugins.recording_plugin import until
from support.workers.trl_worker import Fleet, TrlWorker

from gateway.testing import Live, entry

PARAM = {"name": "w", "dtype": "float32", "shape": [2]}
GENERATION = {"prompts": ["x"]}
OLD_ROUND = ("/update_named_param/", "/reset_prefix_cache/")
NEW_ROUND = ("/start_weight_update", "/update_weights", "/finish_weight_update")


async def post(live: Live, path: str, **body: object) -> httpx.Response:
    return await live.client.post(path, json=body)


async def round_of(live: Live, paths: Sequence[str]) -> list[int]:
    return [(await post(live, path, **PARAM)).status_code for path in paths]


def id_of(worker: TrlWorker) -> str:
    return worker.url.removeprefix("http://")


async def quarantined(live: Live) -> set[str]:
    standing = (await live.client.get("/admin/trl")).json()["workers"]
    return {one["worker_id"] for one in standing if one["quarantined"]}


async def epochs(live: Live) -> list[int]:
    return [one["epoch"] for one in (await live.client.get("/admin/trl")).json()["workers"]]


async def serving(live: Live) -> set[str]:
    """The workers that get calls now."""
    return {worker.id for worker in live.gateway.workers.serving().fit}


async def test_broadcast_reaches_all_workers_and_returns_the_first_response(fleet: Fleet) -> None:
    workers = await fleet.start(3)
    workers[0].says("/init_communicator/", b'{"message":"I am the first"}')
    live = await fleet.gateway()
    answer = await post(live, "/init_communicator/?x=1", host="h", port=51216, world_size=2)
    assert (answer.status_code, answer.json()) == (200, {"message": "I am the first"})
    assert answer.headers["x-gateway-broadcast"].endswith(", failed=")
    for worker in workers:
        [told] = worker.requests
        assert told.target == "/init_communicator/?x=1"
        assert msgspec.json.decode(told.body)["port"] == 51216


async def test_broadcast_reaches_workers_concurrently(fleet: Fleet) -> None:
    workers = await fleet.start(2)
    here = asyncio.Event()

    async def together() -> None:
        if all(worker.told("/update_weights") for worker in workers):
            here.set()
        await here.wait()

    for worker in workers:
        worker.before = together
    live = await fleet.gateway()
    assert (await post(live, "/update_weights")).status_code == 200


@pytest.mark.parametrize("paths", [OLD_ROUND, NEW_ROUND])
@pytest.mark.parametrize("status", [500, 404, None])
async def test_broadcast_quarantines_a_worker_that_missed_a_step_for_a_round(
    fleet: Fleet, paths: Sequence[str], status: int | None
) -> None:
    good, bad = await fleet.start(2)
    live = await fleet.gateway(entry("trl", timeout=1.0))
    assert await round_of(live, paths) == [200] * len(paths)
    bad.failing[paths[-2]] = status
    answers = [await post(live, path, **PARAM) for path in paths]
    assert [answer.status_code for answer in answers] == [200] * len(paths)
    assert answers[-2].headers["x-gateway-broadcast"] == f"ok={id_of(good)}, failed={id_of(bad)}"
    bad.failing.clear()
    await post(live, paths[-1], **PARAM)  # the end alone is no round
    assert await serving(live) == {id_of(good)}
    assert await epochs(live) == [2, 1]
    assert await round_of(live, paths) == [200] * len(paths)
    assert await quarantined(live) == set()
    assert await epochs(live) == [3, 3]


async def test_broadcast_retry_goes_only_to_the_worker_that_missed_it(fleet: Fleet) -> None:
    good, bad = await fleet.start(2)
    bad.failing["/update_named_param/"] = 500
    live = await fleet.gateway(entry("trl", partial="fail"))
    refused = await post(live, "/update_named_param/", **PARAM)
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    error = refused.json()["error"]
    assert error["code"] == "broadcast_failed"
    assert error["workers"] == {id_of(bad): "/update_named_param/: it answered 500"}
    assert await quarantined(live) == {id_of(bad)}
    bad.failing.clear()
    again = await post(live, "/update_named_param/", **PARAM)
    assert (again.status_code, await quarantined(live)) == (200, set())
    assert (good.told("/update_named_param/"), bad.told("/update_named_param/")) == (1, 2)
    assert (await post(live, "/update_named_param/", **PARAM)).status_code == 200
    assert (good.told("/update_named_param/"), bad.told("/update_named_param/")) == (2, 3)
    await post(live, "/reset_prefix_cache/")
    assert await epochs(live) == [1, 1]


async def test_broadcast_retry_after_a_disconnect_loads_nothing_twice(fleet: Fleet) -> None:
    [worker] = await fleet.start(1)
    go_on = asyncio.Event()
    worker.before = go_on.wait
    live = await fleet.gateway()
    async with RawClient(*live.server.address) as client:
        await client.send(head_of("POST", "/update_weights", [(b"content-length", b"2")]) + b"{}")
        await until(lambda: worker.told("/update_weights") == 1)
    await until(lambda: not live.gateway.proxy.in_flight)
    go_on.set()
    for _ in range(2):
        assert (await live.client.post("/update_weights", content=b"{}")).status_code == 200
    assert worker.told("/update_weights") == 2  # the second answer was heard, so a third is new


async def test_broadcast_that_all_workers_reject_quarantines_none(fleet: Fleet) -> None:
    for worker in await fleet.start(2):
        worker.failing["/batch_update_named_params/"] = 404
    live = await fleet.gateway()
    answer = await post(live, "/batch_update_named_params/")
    assert (answer.status_code, answer.json()) == (404, {"detail": "no"})
    assert await quarantined(live) == set()


@pytest.mark.parametrize("status", [500, None])
async def test_broadcast_that_fails_everywhere_quarantines_none_and_can_be_retried(
    fleet: Fleet, status: int | None
) -> None:
    workers = await fleet.start(2)
    for worker in workers:
        worker.failing["/update_weights"] = status
    live = await fleet.gateway(entry("trl", timeout=1.0))
    answer = await post(live, "/update_weights")
    assert (answer.status_code, set(answer.json()["error"]["workers"])) == (
        503,
        {id_of(worker) for worker in workers},
    )
    assert await quarantined(live) == set()
    for worker in workers:
        worker.failing.clear()
    assert (await post(live, "/update_weights")).status_code == 200


async def test_broadcast_returns_503_without_a_fit_worker(fleet: Fleet) -> None:
    [worker] = await fleet.start(1)
    live = await fleet.gateway()
    live.gateway.workers.all[0].mark("test", "down", "as told")
    assert (await post(live, "/update_weights")).status_code == 503
    assert not worker.requests


@pytest.mark.parametrize("state", ["down", "ejected"])
async def test_broadcast_skips_an_absent_worker_which_returns_quarantined(
    fleet: Fleet, state: str
) -> None:
    _, away = await fleet.start(2)
    live = await fleet.gateway()
    worker = live.gateway.workers.all[1]
    worker.mark("test", state, "as told")
    assert await round_of(live, OLD_ROUND) == [200, 200]
    assert not away.requests
    worker.clear("test")
    assert await quarantined(live) == {id_of(away)}
    assert worker not in live.gateway.workers.serving().fit
    assert await round_of(live, OLD_ROUND) == [200, 200]
    assert worker in live.gateway.workers.serving().fit


async def test_broadcast_quarantines_a_worker_that_returns_during_it(fleet: Fleet) -> None:
    here, away = await fleet.start(2)
    live = await fleet.gateway()
    worker = live.gateway.workers.all[1]
    worker.mark("test", "down", "as told")

    async def comes_back() -> None:
        worker.clear("test")

    here.before = comes_back
    assert (await post(live, "/update_named_param/", **PARAM)).status_code == 200
    assert await quarantined(live) == {id_of(away)}


async def test_broadcast_quarantines_workers_that_restarted_or_joined_later(fleet: Fleet) -> None:
    _, second, late = await fleet.start(3)
    live = await fleet.gateway()
    registry = live.gateway.workers
    settings = registry.all[2].settings
    registry.remove(registry.all[2].id)
    registry.all[1].mark("test", "down", "before any update")
    registry.all[1].clear("test")
    assert await quarantined(live) == set()
    await round_of(live, OLD_ROUND)
    registry.all[1].mark("test", "down", "it may have started anew")
    registry.all[1].clear("test")
    registry.add(settings)
    assert await quarantined(live) == {id_of(second), id_of(late)}
    await round_of(live, OLD_ROUND)
    assert await quarantined(live) == set()


async def test_broadcast_quarantines_a_worker_that_did_not_join_the_group(fleet: Fleet) -> None:
    _, bad = await fleet.start(2)
    bad.failing["/init_communicator/"] = 500
    live = await fleet.gateway()
    assert (await post(live, "/init_communicator/")).status_code == 200
    await round_of(live, OLD_ROUND)
    bad.failing.clear()
    await post(live, "/init_communicator/", again=True)
    assert await quarantined(live) == {id_of(bad)}
    await round_of(live, OLD_ROUND)
    assert await quarantined(live) == set()


@pytest.mark.parametrize(
    ("path", "heals"),
    [
        ("/pause", "/resume"),
        ("/resume", "/resume"),
        ("/reset_prefix_cache", "/reset_prefix_cache"),
        ("/update_weight_version", "/update_weight_version"),
    ],
)
async def test_broadcast_quarantine_ends_when_the_missed_step_succeeds(
    fleet: Fleet, path: str, heals: str
) -> None:
    _, bad = await fleet.start(2)
    bad.failing[path] = 500
    live = await fleet.gateway()
    assert (await post(live, path, new_version=1)).status_code == 200
    assert await quarantined(live) == {id_of(bad)}
    bad.failing.clear()
    await post(live, heals, new_version=2)
    assert await quarantined(live) == set()


async def test_broadcast_to_close_the_group_quarantines_none(fleet: Fleet) -> None:
    _, bad = await fleet.start(2)
    bad.failing["/close_communicator/"] = 500
    live = await fleet.gateway()
    assert (await post(live, "/close_communicator/")).status_code == 200
    assert await quarantined(live) == set()


async def test_broadcast_sets_the_version_of_the_workers_that_accepted_it(fleet: Fleet) -> None:
    _, bad = await fleet.start(2)
    bad.failing["/update_weight_version"] = 500
    live = await fleet.gateway()
    await post(live, "/update_weight_version", new_version="step-7")
    assert [worker.weight_version for worker in live.gateway.workers.all] == ["step-7", None]


async def test_broadcast_header_truncates_a_long_list_of_workers(fleet: Fleet) -> None:
    await fleet.start(1)
    live = await fleet.gateway()
    registry = live.gateway.workers
    settings = registry.all[0].settings
    for number in range(40):
        worker = registry.add(msgspec.structs.replace(settings, worker_id=f"w{number:02}"))
        worker.mark("test", "down", "as told")
    answer = await post(live, "/pause")
    assert answer.headers["x-gateway-broadcast"].endswith(" w31 +8")


async def test_broadcast_quarantine_ends_with_the_plugin(fleet: Fleet) -> None:
    _, bad = await fleet.start(2)
    bad.failing["/resume"] = 500
    live = await fleet.gateway()
    await post(live, "/resume")
    workers = live.gateway.workers.all
    await live.gateway.__aexit__(None, None, None)
    assert [dict(worker.conditions) for worker in workers] == [{}, {}]
