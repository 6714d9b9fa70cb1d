"""Calls that a worker refuses by a response and has not run: held, and asked again at a pace."""

import asyncio
from collections.abc import Sequence

import httpx
import pytest
from gateway_plugins.backpressure.pauses import ALL, MAX_PAUSE, MAX_PAUSES, Pauses
from support.plugins.recording_plugin import until
from support.steady import steady
from support.workers.failing_worker import QUICK, UNSAID, InOrder, assert_idle, refusal
from support.workers.loading_worker import LOADING, LoadingWorker
from support.workers.restarting_worker import restarting

from gateway import Call, Principal, config, hookimpl
from gateway.config import Failover
from gateway.errors import ConnectFailed, Draining, NoWorker
from gateway.testing import NO_PROBES, GatewayFor, Live, ScriptedWorker, answer_of, entry

CHAT = "/v1/chat/completions"
OK = answer_of(b"{}")


class Bound:
    """Every caller may use the worker `a` alone."""

    @hookimpl
    async def authenticate(self, call: Call) -> Principal:
        return Principal("bound", workers=frozenset({"a"}))


async def chat(live: Live, name: str = "one", model: str = "sim") -> httpx.Response:
    body = {"model": model, "user": name, "messages": []}
    return await live.client.post(CHAT, json=body)


def chats(live: Live, count: int) -> "asyncio.Future[list[httpx.Response]]":
    return asyncio.gather(*(chat(live, f"call {number}") for number in range(count)))


def waiting(seconds: float = 30.0, **options: object) -> config.PluginEntry:
    return entry("backpressure", queue={"max_wait": seconds}, **options)


def named(*urls: str) -> Sequence[config.Worker]:
    return [config.Worker(url=url, worker_id=name) for url, name in zip(urls, "abc", strict=False)]


async def test_calls_are_held_while_their_only_worker_loads(gateway_for: GatewayFor) -> None:
    loading = LoadingWorker()
    async with loading.server as server:
        live = await gateway_for("backpressure", workers=[server.url], probes=NO_PROBES)
        loading.loaded_after(0.8)
        answers = await chats(live, 40)
        assert [answer.status_code for answer in answers] == [200] * 40
        assert len(set(loading.ran)) == len(loading.ran) == 40, "each ran once"
        assert loading.refused <= 40 + 8, "once each, and then a few of them"
        assert_idle(live.gateway)


async def test_calls_that_come_later_do_not_disturb_a_loading_worker_more(
    gateway_for: GatewayFor,
) -> None:
    loading = LoadingWorker()
    async with loading.server as server:
        live = await gateway_for("backpressure", workers=[server.url], probes=NO_PROBES)
        first = chats(live, 5)
        await until(lambda: loading.refused >= 5)
        later = asyncio.create_task(chat(live, "later"))
        await until(lambda: "later" in loading.asked)
        loading.refuses = None
        assert [answer.status_code for answer in await first] == [200] * 5
        assert (await later).status_code == 200


async def test_pauses_of_a_loading_worker_grow(gateway_for: GatewayFor) -> None:
    loading = LoadingWorker()
    async with loading.server as server:
        live = await gateway_for("backpressure", workers=[server.url], probes=NO_PROBES)
        call = asyncio.create_task(chat(live))
        await until(lambda: loading.refused >= 4)
        loading.refuses = None
        assert (await call).status_code == 200
        one, two, three, four = loading.asked["one"]
        assert two - one >= 0.09
        assert three - two >= 0.19
        assert four - three >= 0.39


@steady
async def test_worker_is_asked_again_when_it_says(gateway_for: GatewayFor) -> None:
    loading = LoadingWorker(refusal(503, "retry-after: 1", body=LOADING))
    async with loading.server as server:
        live = await gateway_for(waiting(1.3), workers=[server.url], probes=NO_PROBES)
        assert (await chat(live)).status_code == 503
        one, two = loading.asked["one"]
        assert 0.99 <= two - one < 1.3


async def test_two_loading_workers_hold_calls_until_one_is_ready(gateway_for: GatewayFor) -> None:
    slow, quick = LoadingWorker(), LoadingWorker()
    async with slow.server as one, quick.server as two:
        live = await gateway_for("backpressure", workers=[one.url, two.url], probes=NO_PROBES)
        quick.loaded_after(0.5)
        answers = await chats(live, 20)
        assert [answer.status_code for answer in answers] == [200] * 20
        assert len(set(quick.ran)) == len(quick.ran) == 20
        assert slow.ran == []
        assert slow.refused + quick.refused <= 40 + 16


async def test_call_goes_to_another_worker_and_leaves_the_loading_one_alone(
    gateway_for: GatewayFor,
) -> None:
    loading = LoadingWorker()
    async with loading.server as one, ScriptedWorker(OK) as two:
        live = await gateway_for(
            InOrder,
            entry("backpressure"),
            workers=named(one.url, two.url),
            failover=Failover(budget=0.0),
            probes=NO_PROBES,
        )
        answers = [await chat(live, str(number)) for number in range(10)]
        assert [answer.headers["x-gateway-worker"] for answer in answers] == ["b"] * 10
        assert loading.refused <= 2
        assert (await live.client.get("/admin/queue")).json()["counts"]["waited"] == 0


async def test_pause_is_shown_and_keeps_no_calls_away(gateway_for: GatewayFor) -> None:
    loading = LoadingWorker()
    async with loading.server as server:
        live = await gateway_for("backpressure", workers=[server.url], probes=NO_PROBES)
        [worker] = live.gateway.workers.all
        call = asyncio.create_task(chat(live))
        await until(lambda: bool(worker.conditions))
        [shown] = (await live.client.get("/health/workers")).json()["workers"]
        assert (shown["state"], shown["healthy"]) == ("busy", True)
        assert shown["conditions"]["backpressure"]["blocks"] is False
        assert (await live.client.get("/ready")).status_code == 200
        loading.refuses = None
        assert (await call).status_code == 200
        await until(lambda: not worker.conditions)


@pytest.mark.parametrize("queue", [{"max_wait": 0.3}, {"max_length": 0}])
async def test_waiting_in_vain_gives_the_response_of_the_worker(
    gateway_for: GatewayFor, queue: dict[str, float]
) -> None:
    loading = LoadingWorker()
    async with loading.server as server:
        backpressure = entry("backpressure", queue=queue)
        live = await gateway_for(backpressure, workers=named(server.url), probes=NO_PROBES)
        answer = await chat(live)
        assert (answer.status_code, answer.content) == (503, LOADING)
        assert (answer.headers["x-own"], answer.headers["x-gateway-worker"]) == ("yes", "a")
        assert_idle(live.gateway)


@pytest.mark.parametrize("plugin", [None, entry("backpressure", no_worker="refuse")])
async def test_refusal_is_the_response_if_calls_may_not_wait(
    gateway_for: GatewayFor, plugin: config.PluginEntry | None
) -> None:
    loading = LoadingWorker()
    async with loading.server as server:
        plugins = () if plugin is None else (plugin,)
        live = await gateway_for(*plugins, workers=[server.url], probes=NO_PROBES)
        assert (await chat(live)).content == LOADING
        assert loading.refused == 1
        assert live.gateway.workers.all[0].conditions == {}


@pytest.mark.parametrize(
    "answer",
    [
        refusal(429, body=LOADING),
        refusal(503, body=UNSAID),
        refusal(503, body=b'{"error":{"message":"old","code":"wrong_version"}}'),
        refusal(404, body=b'{"message":"The model `sim` does not exist."}'),
    ],
    ids=["429", "unsaid", "this call alone", "no model"],
)
async def test_other_refusals_are_not_held(gateway_for: GatewayFor, answer: bytes) -> None:
    other = LoadingWorker(answer)
    async with other.server as server:
        live = await gateway_for(waiting(600), workers=[server.url], probes=NO_PROBES)
        async with asyncio.timeout(30):
            assert (await chat(live)).status_code == int(answer[9:12])
        assert other.refused == 1


@pytest.mark.parametrize("error", [NoWorker("none"), Draining("ends"), ConnectFailed("gone")])
async def test_refusal_of_another_gateway_is_held(
    gateway_for: GatewayFor, error: NoWorker | ConnectFailed
) -> None:
    inner = LoadingWorker(refusal(error.status, body=error.body()))
    async with inner.server as server:
        live = await gateway_for(waiting(), workers=[server.url], probes=NO_PROBES)
        inner.loaded_after(0.2)
        assert (await chat(live)).status_code == 200


async def test_status_that_the_operator_vouches_for_is_held(gateway_for: GatewayFor) -> None:
    proxy = LoadingWorker(refusal(503, body=UNSAID))
    async with proxy.server as server:
        worker = config.Worker(url=server.url, refuses_with=(503,))
        live = await gateway_for(waiting(), workers=[worker], probes=NO_PROBES)
        proxy.loaded_after(0.2)
        assert (await chat(live)).status_code == 200


async def test_refused_model_holds_up_no_other_model(gateway_for: GatewayFor) -> None:
    inner = LoadingWorker(refusal(503, body=NoWorker("none for it").body()))
    inner.well.add("other")
    async with inner.server as server:
        live = await gateway_for(waiting(), workers=[server.url], probes=NO_PROBES)
        held = asyncio.create_task(chat(live, "held", "sim"))
        await until(lambda: inner.refused > 0)
        others = [await chat(live, f"other {number}", "other") for number in range(5)]
        assert [answer.status_code for answer in others] == [200] * 5
        assert not held.done()
        inner.refuses = None
        assert (await held).status_code == 200


async def test_call_about_an_object_is_not_held(gateway_for: GatewayFor) -> None:
    inner = LoadingWorker(refusal(503, body=NoWorker("its keeper is down").body()))
    async with inner.server as server:
        live = await gateway_for(waiting(600), workers=[server.url], probes=NO_PROBES)
        async with asyncio.timeout(30):
            answer = await live.client.get("/v1/responses/resp_1")
            assert answer.status_code == 503
            body = {"model": "sim", "input": "x", "previous_response_id": "resp_1"}
            assert (await live.client.post("/v1/responses", json=body)).status_code == 503
        assert inner.refused == 2


async def test_call_without_failover_waits_only_for_the_only_worker(
    gateway_for: GatewayFor,
) -> None:
    loading = LoadingWorker()
    alone = Failover(max_workers=1)
    async with loading.server as one, ScriptedWorker(OK) as two:
        live = await gateway_for(
            InOrder,
            entry("backpressure"),
            workers=named(one.url, two.url),
            failover=alone,
            probes=NO_PROBES,
        )
        assert (await chat(live)).content == LOADING
        single = await gateway_for(waiting(), workers=[one.url], failover=alone, probes=NO_PROBES)
        loading.loaded_after(0.1)
        assert (await chat(single)).status_code == 200


async def test_caller_that_leaves_ends_its_held_call(gateway_for: GatewayFor) -> None:
    loading = LoadingWorker()
    async with loading.server as server:
        live = await gateway_for(waiting(), workers=[server.url], probes=NO_PROBES)
        call = asyncio.create_task(chat(live))
        await until(lambda: loading.refused > 0)
        call.cancel()
        await until(lambda: not live.gateway.calls_in_flight)
        assert (await live.client.get("/admin/queue")).json()["length"] == 0


async def test_response_lists_the_latest_attempts_of_a_call_alone(gateway_for: GatewayFor) -> None:
    loading = LoadingWorker()
    async with loading.server as server:
        live = await gateway_for(waiting(0.4), workers=named(server.url), probes=NO_PROBES)
        ways = (await chat(live)).headers["x-gateway-attempts"].split(", ")
        assert ways == ["a=503"] * len(loading.asked["one"])


async def test_pauses_are_bounded_in_number_and_in_length(gateway_for: GatewayFor) -> None:
    live = await gateway_for("backpressure", workers=["http://127.0.0.1:9"], probes=NO_PROBES)
    [worker] = live.gateway.workers.all
    pauses = Pauses(lambda worker, calls: None)
    taken = [pauses.refused(worker, f"made up {one}", 1.0, 0.0) for one in range(MAX_PAUSES + 9)]
    assert taken.count(True) == MAX_PAUSES
    pause = pauses.there[worker, "made up 0"]
    for asked_for, longest in ((0.0, MAX_PAUSE), (3600.0, 5.0)):
        for _ in range(20):
            pauses.refused(worker, "made up 0", pause.began + 1, asked_for)
        assert pause.seconds == longest
    pauses.close()
    assert pauses.there == {}
    assert worker.conditions == {}


async def test_calls_come_back_in_groups_that_grow_until_all_may(
    gateway_for: GatewayFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MIN_PAUSE", "STEP"):
        monkeypatch.setattr(f"gateway_plugins.backpressure.pauses.{name}", 0)
    live = await gateway_for("backpressure", workers=["http://127.0.0.1:9"], probes=NO_PROBES)
    groups: list[int] = []
    pauses = Pauses(lambda worker, calls: groups.append(calls))
    pauses.refused(live.gateway.workers.all[0], "sim", 1.0, 0.0)
    await until(lambda: not pauses.there)
    assert groups == [1, 2, 4, 8, 16, 32, 64, ALL]


async def test_principal_bound_to_a_dead_worker_waits_for_it(gateway_for: GatewayFor) -> None:
    async with restarting() as dead, ScriptedWorker(OK) as other:
        dead.kill()
        live = await gateway_for(
            Bound, waiting(), workers=named(dead.url, other.url), failover=QUICK
        )
        call = asyncio.create_task(chat(live))
        await until(lambda: not live.gateway.workers.all[0].fit)
        await dead.start()
        answer = await call
        assert (answer.status_code, answer.headers["x-gateway-worker"]) == (200, "a")


@pytest.mark.parametrize("status", [429, 503])
async def test_principal_bound_to_a_dead_worker_waits_in_vain_for_a_503(
    gateway_for: GatewayFor, status: int
) -> None:
    """Other workers are fit, and of no use to it."""
    async with restarting() as dead, ScriptedWorker(OK) as other:
        dead.kill()
        live = await gateway_for(
            Bound, waiting(0.1, status=status), workers=named(dead.url, other.url)
        )
        answer = await chat(live)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_worker")
        assert other.requests == [] or all(b"POST" not in one for one in other.requests)
