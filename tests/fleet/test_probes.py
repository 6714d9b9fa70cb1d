"""Whether workers are well, and which models they serve, as they say when they are asked."""

import asyncio
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.plugins.recording_plugin import until
from support.steady import steady
from support.workers.full_backlog import full_backlog
from support.workers.restarting_worker import restarting

from gateway import Worker
from gateway.config import Config, Probes, Timeouts
from gateway.config import Worker as Settings
from gateway.errors import ConnectTimeout
from gateway.fleet.probes import MAX_MODELS, MAX_NAME_CHARS, Prober, read_models
from gateway.fleet.registry import Workers
from gateway.pipeline.local import LocalWorker
from gateway.testing import (
    MESSAGES,
    NO_PROBES,
    GatewayFor,
    Live,
    ScriptedConnection,
    ScriptedWorker,
    answer_of,
)
from gateway.upstream.connection import Connection

OFTEN = Probes(interval=0.01, fall=3, rise=2, timeout=5, models_interval=None)
ASKED_OFTEN = Probes(interval=None, models_interval=0.01)
ASKED = Probes(interval=None, models_interval=60)
EVENT_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"


class Server:
    """Answers its probes with `status`, /v1/models with `models`; counts what it is asked."""

    def __init__(self, *models: str) -> None:
        self.status = 200
        self.delay = 0.0
        self.models: bytes = listed(*models)
        self.probes = 0
        self.looks = 0
        self.worker = ScriptedWorker(self._serve)

    async def _serve(self, connection: ScriptedConnection) -> None:
        while True:
            request = await connection.read_request()
            if request.startswith(b"GET /v1/models"):
                self.looks += 1
                await asyncio.sleep(self.delay)
                await connection.write(answer_of(self.models))
            elif request.startswith(b"GET /health"):
                self.probes += 1
                await connection.write(b"HTTP/1.1 %d X\r\ncontent-length: 0\r\n\r\n" % self.status)
            else:
                await connection.write(answer_of(b'{"object": "answer"}'))

    async def probed(self, times: int) -> None:
        """Wait until that many further probes were answered and judged."""
        last = self.probes + times + 1
        await until(lambda: self.probes >= last)


def listed(*models: str) -> bytes:
    return msgspec.json.encode({"object": "list", "data": [{"id": name} for name in models]})


def only_worker(live: Live) -> Worker:
    [worker] = live.gateway.workers.all
    return worker


async def chat(live: Live, model: str) -> tuple[int, str | None]:
    body = {"model": model, "messages": [dict(MESSAGES[0])]}
    answer = await live.client.post("/v1/chat/completions", json=body)
    return answer.status_code, answer.headers.get("x-gateway-worker")


async def test_probe_takes_a_failing_worker_down_until_it_recovers(
    gateway_for: GatewayFor, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server()
    async with server.worker:
        live = await gateway_for(workers=[server.worker.url], probes=OFTEN)
        worker = only_worker(live)
        await server.probed(2)
        assert worker.fit
        server.status = 503
        await until(lambda: not worker.fit)
        [info] = (await live.client.get("/health/workers")).json()["workers"]
        assert (info["healthy"], info["state"]) == (False, "down")
        reason = info["conditions"]["probe"]["reason"]
        assert reason == "GET /health: the answer's status is 503, 3 times in a row"
        assert (await chat(live, "m"))[0] == 503
        await server.probed(5)
        server.status = 200
        await until(lambda: worker.fit)
        assert (await chat(live, "m"))[0] == 200
    told = [record.getMessage() for record in caplog.records if record.name == "gateway.probes"]
    assert told == [
        f"worker {worker.id} is down: {reason}",
        f"worker {worker.id} is up: its probes go well again",
    ]


async def test_probe_stops_for_a_worker_with_probe_false(gateway_for: GatewayFor) -> None:
    failing, left_alone = Server(), Server()
    failing.status = left_alone.status = 503
    async with failing.worker, left_alone.worker:
        fleet = [
            Settings(url=failing.worker.url, worker_id="failing"),
            Settings(url=left_alone.worker.url, probe=False),
        ]
        live = await gateway_for(workers=fleet, probes=OFTEN)
        worker = live.gateway.workers.all[0]
        await until(lambda: not worker.fit)
        await live.client.patch("/admin/workers/failing", json={"probe": False})
        await until(lambda: worker.fit)
        assert left_alone.probes == 0


@pytest.mark.parametrize("status", [204, 302, 401, 404])
async def test_probe_accepts_any_status_below_500(gateway_for: GatewayFor, status: int) -> None:
    server = Server()
    server.status = status
    async with server.worker:
        live = await gateway_for(workers=[server.worker.url], probes=OFTEN)
        await server.probed(4)
        assert only_worker(live).conditions == {}


async def test_probe_ignores_failures_that_are_not_consecutive(gateway_for: GatewayFor) -> None:
    served = asyncio.Event()
    statuses = iter([500, 500, 200] * 3)

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        status = next(statuses, None)
        if status is None:
            served.set()
        await connection.write(b"HTTP/1.1 %d X\r\ncontent-length: 0\r\n\r\n" % (status or 200))

    async with ScriptedWorker(script) as worker:
        live = await gateway_for(workers=[worker.url], probes=OFTEN)
        marked: list[object] = []
        live.gateway.workers.changed.append(lambda: marked.append(only_worker(live).conditions))
        await served.wait()
        assert marked == []


async def refuse(connection: ScriptedConnection) -> None:
    connection.abort()


async def mute(connection: ScriptedConnection) -> None:
    await connection.closed.wait()


async def garbage(connection: ScriptedConnection) -> None:
    await connection.read_request()
    await connection.write(b"SSH-2.0-OpenSSH\r\n")


@pytest.mark.parametrize("script", [refuse, garbage])
async def test_probe_takes_a_worker_down_without_a_valid_response(
    gateway_for: GatewayFor, script: Callable[..., object]
) -> None:
    quick = msgspec.structs.replace(OFTEN, timeout=0.02)
    async with ScriptedWorker(script) as worker:  # type: ignore[arg-type]
        live = await gateway_for(workers=[worker.url], probes=quick)
        await until(lambda: not only_worker(live).fit)
        assert worker.url.rpartition(":")[2] not in only_worker(live).conditions["probe"].reason


@steady
async def test_probe_leaves_the_last_worker_that_is_late(
    gateway_for: GatewayFor, caplog: pytest.LogCaptureFixture
) -> None:
    """An engine that compiles: its probes come late, and its responses would come."""

    async def busy(connection: ScriptedConnection) -> None:
        while b"GET /health" not in await connection.read_request():
            await connection.write(answer_of(b"{}"))
        await connection.closed.wait()

    quick = msgspec.structs.replace(OFTEN, timeout=0.02)
    other = Server()
    async with ScriptedWorker(busy) as late, other.worker:
        live = await gateway_for(workers=[late.url], probes=quick)
        worker = only_worker(live)
        await until(lambda: "probe" in worker.conditions)
        assert (worker.fit, worker.info().state) == (True, "suspect")
        assert (await chat(live, "m"))[0] == 200
        live.gateway.workers.add(Settings(url=other.worker.url, worker_id="other"))
        await until(lambda: not worker.fit)
        live.gateway.workers.remove("other")
        await until(lambda: worker.fit)
    assert "worker did not finish within 0.02 s, 3 times in a row" in caplog.messages[0]


@steady
async def test_probe_counts_a_stream_that_goes_on_as_evidence(gateway_for: GatewayFor) -> None:
    async def streams(connection: ScriptedConnection) -> None:
        if b"GET /health" in await connection.read_request():
            await connection.closed.wait()
            return
        await connection.write(EVENT_STREAM)
        while not connection.closed.is_set():
            await connection.write(b": still here\n\n")
            await asyncio.sleep(0.002)

    quick = msgspec.structs.replace(OFTEN, timeout=0.02)
    other = Server()
    async with ScriptedWorker(streams) as late, other.worker:
        fleet = [Settings(url=late.url), Settings(url=other.worker.url, worker_id="other")]
        live = await gateway_for(workers=fleet, probes=quick)
        worker = live.gateway.workers.all[0]
        await until(lambda: not worker.fit)
        live.gateway.workers.all[1].mark("test", "down", "as the test wants it")
        await until(lambda: worker.fit)
        async with live.client.stream("POST", "/v1/chat/completions", json={}) as answer:
            assert answer.status_code == 200
            live.gateway.workers.all[1].clear("test")
            probes = len(late.requests) + 5
            await until(lambda: len(late.requests) > probes)
            assert worker.fit, "its stream goes on"
        await until(lambda: not worker.fit)


async def test_refused_call_takes_a_worker_down_at_once_and_has_it_probed(
    gateway_for: GatewayFor,
) -> None:
    seldom = Probes(interval=600, models_interval=None)
    async with restarting() as server:
        live = await gateway_for(workers=[server.url], probes=seldom)
        server.kill()
        answer = await live.client.post("/v1/chat/completions", json={})
        assert answer.json()["error"]["code"] == "upstream_connect_failed"
        assert int(answer.headers["retry-after"]) >= 1
        assert only_worker(live).info().state == "down"
        await server.start()
        await until(lambda: only_worker(live).fit)
        assert (await chat(live, "m"))[0] == 200


@pytest.mark.parametrize("probes", [NO_PROBES, OFTEN])
async def test_worker_without_probes_is_back_once_it_accepts_connections(
    gateway_for: GatewayFor, probes: Probes
) -> None:
    async with restarting() as server:
        server.kill()
        settings = Settings(url=server.url, probe=False)
        live = await gateway_for(workers=[settings], probes=probes)
        assert (await chat(live, "m"))[0] == 502
        assert not only_worker(live).fit
        await server.start()
        await until(lambda: only_worker(live).fit)
        assert (await chat(live, "m"))[0] == 200


@steady
async def test_worker_without_probes_stays_down_while_connections_to_it_time_out(
    gateway_for: GatewayFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.fleet.probing.pulse.ABSENT_INTERVAL", 0.05)
    hasty = Probes(interval=None, timeout=0.01, models_interval=None)
    async with restarting() as server:
        server.kill()
        settings = Settings(url=server.url, probe=False)
        live = await gateway_for(workers=[settings], probes=hasty, timeouts=Timeouts(connect=0.05))
        assert (await chat(live, "m"))[0] == 502
        worker = only_worker(live)
        late: list[ConnectTimeout] = []
        open_one = worker.pool.open

        async def observed() -> Connection:
            try:
                return await open_one()
            except ConnectTimeout as error:
                late.append(error)
                raise

        monkeypatch.setattr(worker.pool, "open", observed)
        with full_backlog(server.port):
            await until(lambda: len(late) > 5 or worker.fit)
            assert not worker.fit
            assert (await chat(live, "m"))[0] == 503
        await server.start()
        await until(lambda: worker.fit)
        assert (await chat(live, "m"))[0] == 200


async def test_probe_condition_is_independent_of_other_conditions(gateway_for: GatewayFor) -> None:
    server = Server()
    server.status = 500
    async with server.worker:
        live = await gateway_for(workers=[server.worker.url], probes=OFTEN)
        worker = only_worker(live)
        await until(lambda: not worker.fit)
        worker.mark("weights", "quarantined", "they are old")
        server.status = 200
        await until(lambda: "probe" not in worker.conditions)
        assert (worker.fit, worker.info().state) == (False, "quarantined")


async def test_prober_follows_added_and_removed_workers(
    gateway_for: GatewayFor,
) -> None:
    first, second = Server(), Server()
    async with first.worker, second.worker:
        live = await gateway_for(workers=[first.worker.url], probes=OFTEN)
        await first.probed(1)
        workers = live.gateway.workers
        workers.add(Settings(url=second.worker.url, worker_id="second"))
        workers.remove(workers.all[0].id)
        await until(lambda: first.worker.connections_open == 0)
        asked = first.probes
        await second.probed(3)
        assert first.probes == asked


async def test_prober_leaves_no_tasks_or_connections_at_shutdown(gateway_for: GatewayFor) -> None:
    async def hang(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.closed.wait()

    async with ScriptedWorker(hang) as worker:
        before = asyncio.all_tasks()
        workers = Workers(Config(workers=(Settings(url=worker.url),)))
        async with Prober(workers, Probes(interval=0.01)) as prober:
            await until(lambda: len(worker.requests) >= 2)
            asking = asyncio.create_task(prober.refresh_models())
            await until(lambda: len(worker.requests) >= 3)
            workers.add(Settings(url=worker.url, worker_id="another"))
            workers.remove("another")
        await asking
        ours = {task for task in asyncio.all_tasks() - before if "ScriptedWorker" not in str(task)}
        assert ours == set()
        assert workers.changed == []
        await until(lambda: len(workers.all[0].pool) == 0)


async def test_local_worker_is_not_probed() -> None:
    settings = Config(probes=OFTEN)
    workers = Workers(settings)
    workers.put((LocalWorker(lambda body: body, settings),))
    before = asyncio.all_tasks()
    async with Prober(workers, settings.probes):
        assert asyncio.all_tasks() == before


async def test_prober_logs_a_watch_that_fails(
    gateway_for: GatewayFor, caplog: pytest.LogCaptureFixture
) -> None:
    def breaks() -> None:
        raise ValueError("a plugin's mistake")

    server = Server("m")
    async with server.worker:
        live = await gateway_for(workers=[server.worker.url], probes=ASKED)
        await until(lambda: only_worker(live).models is not None)
        server.models = listed("n")
        live.gateway.workers.changed.append(breaks)
        live.gateway.prober.change(ASKED_OFTEN)
        await until(lambda: bool(caplog.records))
    [said] = [record for record in caplog.records if record.name == "gateway.probes"]
    assert said.getMessage() == f"worker {only_worker(live).id} is watched no more"


async def test_prober_applies_changed_settings_at_once(gateway_for: GatewayFor) -> None:
    server = Server()
    server.status = 500
    async with server.worker:
        live = await gateway_for(workers=[server.worker.url], probes=OFTEN)
        worker, prober = only_worker(live), live.gateway.prober
        await until(lambda: not worker.fit)
        prober.change(msgspec.structs.replace(OFTEN, interval=0.005))
        assert not worker.fit, "nobody has found it well"
        for told in live.gateway.reloaded:
            told(Config(probes=NO_PROBES))
        assert worker.conditions == {}, "nobody would ever find it well"
        prober.change(OFTEN)
        await until(lambda: not worker.fit)


# Models


async def test_calls_go_to_workers_that_list_the_model(gateway_for: GatewayFor) -> None:
    one, other = Server("m", "adapter"), Server("n")
    one.delay = 0.1  # the gateway waits for it at the start
    async with one.worker, other.worker:
        named = [
            Settings(url=server.worker.url, worker_id=name)
            for name, server in (("one", one), ("other", other))
        ]
        live = await gateway_for(workers=named, probes=ASKED)
        assert [await chat(live, "n") for _ in range(3)] == [(200, "other")] * 3
        assert [await chat(live, "adapter") for _ in range(3)] == [(200, "one")] * 3
        listed_now = (await live.client.get("/admin/workers")).json()
        assert [worker["models"] for worker in listed_now] == [["adapter", "m"], ["n"]]


async def test_unknown_model_refreshes_the_lists_and_else_returns_404(
    gateway_for: GatewayFor,
) -> None:
    one, other = Server("m"), Server("n")
    async with one.worker, other.worker:
        live = await gateway_for(workers=[one.worker.url, other.worker.url], probes=ASKED)
        await until(lambda: one.looks == other.looks == 1)
        other.models = listed("n", "adapter")
        assert await chat(live, "adapter") == (200, other.worker.url.removeprefix("http://"))
        assert one.looks == other.looks == 2
        answers = await asyncio.gather(*(chat(live, f"none-{n}") for n in range(20)))
        assert {status for status, _ in answers} == {404}
        assert one.looks <= 3, "all of them share a round"


async def test_models_in_the_settings_are_not_queried(gateway_for: GatewayFor) -> None:
    named, open_ = Server("m"), Server("n")
    async with named.worker, open_.worker:
        workers = [Settings(url=named.worker.url, models=("x",)), Settings(url=open_.worker.url)]
        live = await gateway_for(workers=workers, probes=ASKED)
        assert live.gateway.workers.all[0].models == frozenset(("x",))
        assert (await chat(live, "none"))[0] == 404
        assert (named.looks, open_.looks) == (0, 2)


async def test_recovered_worker_is_queried_for_its_models(gateway_for: GatewayFor) -> None:
    server = Server("m")
    async with server.worker:
        settings = msgspec.structs.replace(OFTEN, models_interval=60)
        live = await gateway_for(workers=[server.worker.url], probes=settings)
        worker = only_worker(live)
        await until(lambda: worker.models == frozenset(("m",)))
        server.status, server.models = 500, listed("new")
        await until(lambda: not worker.fit)
        assert worker.models == frozenset(("m",))
        server.status = 200
        await until(lambda: worker.models == frozenset(("new",)))


async def test_listeners_are_notified_only_if_models_change(gateway_for: GatewayFor) -> None:
    server = Server("m")
    async with server.worker:
        live = await gateway_for(workers=[server.worker.url], probes=ASKED_OFTEN)
        await until(lambda: only_worker(live).models == frozenset(("m",)))
        told: list[bool] = []
        live.gateway.workers.changed.append(lambda: told.append(True))
        looks = server.looks
        await until(lambda: server.looks > looks + 3)
        assert told == []
        server.models = b"this is no JSON"
        await until(lambda: only_worker(live).models is None)
        assert told == [True]


async def test_silent_worker_delays_neither_startup_nor_calls(
    gateway_for: GatewayFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.fleet.probes.STARTUP_TIMEOUT", 0.05)
    monkeypatch.setattr("gateway.fleet.probes.ROUND_TIMEOUT", 0.05)
    one = Server("m")
    async with one.worker, ScriptedWorker(mute) as silent:
        patient = msgspec.structs.replace(ASKED, timeout=600.0)
        live = await gateway_for(workers=[one.worker.url, silent.url], probes=patient)
        first, second = live.gateway.workers.all
        await until(lambda: first.models == frozenset(("m",)))
        assert second.models is None
        second.models = frozenset(("said before",))
        second.changed()
        assert (await chat(live, "none"))[0] == 404


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b'{"data": []}',
        b'{"data": [{"id": 7}]}',
        b'{"data": [{"name": "m"}]}',
        b'{"data": [{"id": "\xff"}]}',
        b'{"data":' + b"[" * 100_000,
        listed(*(f"m{n}" for n in range(MAX_MODELS + 1))),
        listed("x" * (MAX_NAME_CHARS + 1)),
    ],
)
def test_read_models_returns_none_for_an_invalid_list(body: bytes) -> None:
    assert read_models(body) is None


def test_read_models_includes_adapters() -> None:
    """As vLLM 0.11 lists them."""
    body = (
        b'{"object":"list","data":[{"id":"base","object":"model","root":"/w","parent":null},'
        b'{"id":"adapter","object":"model","root":"/a","parent":"base"}]}'
    )
    assert read_models(body) == frozenset(("base", "adapter"))


@given(st.binary())
def test_read_models_survives_any_bytes(body: bytes) -> None:
    read_models(body)
