"""A worker that answers that a model does not exist: calls avoid it, and its list is read again."""

import asyncio

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from support.plugins.recording_plugin import until
from support.workers.failing_worker import QUICK, InOrder

from gateway.config import Config, Probes
from gateway.config import Worker as Settings
from gateway.fleet import worker as fleet_worker
from gateway.fleet.registry import Workers
from gateway.testing import GatewayFor, Live, ScriptedConnection, ScriptedWorker, answer_of

ASKED = Probes(interval=None, models_interval=60)
UNASKED = Probes(interval=None, models_interval=None)
CHAT = "/v1/chat/completions"


class Engine:
    """Serves the models in `loaded`, and lists those in `listed`, as vLLM does."""

    def __init__(self, *models: str) -> None:
        self.loaded = set(models)
        self.listed = list(models)
        self.looks = 0
        self.calls = 0
        self.worker = ScriptedWorker(self._serve)

    async def _serve(self, connection: ScriptedConnection) -> None:
        while True:
            request = await connection.read_request()
            if request.startswith(b"GET /v1/models"):
                self.looks += 1
                cards = [{"id": name} for name in self.listed]
                await connection.write(answer_of(msgspec.json.encode({"data": cards})))
                continue
            self.calls += 1
            model = msgspec.json.decode(request.partition(b"\r\n\r\n")[2])["model"]
            if model in self.loaded:
                await connection.write(answer_of(b'{"choices": []}'))
            else:
                await connection.write(answer_of(unknown(model), status="404 Not Found"))


def unknown(model: str) -> bytes:
    error = {"message": f"The model `{model}` does not exist.", "type": "NotFoundError"}
    return msgspec.json.encode({"error": {**error, "param": "model", "code": 404}})


def named(*engines: Engine, models: tuple[str, ...] = ()) -> tuple[Settings, ...]:
    return tuple(
        Settings(url=engine.worker.url, worker_id=name, models=models)
        for name, engine in zip("abc", engines, strict=False)
    )


async def ask(live: Live, model: str = "lora") -> httpx.Response:
    return await live.client.post(CHAT, json={"model": model, "messages": []})


async def test_call_goes_elsewhere_once_an_adapter_is_unloaded(gateway_for: GatewayFor) -> None:
    one, two = Engine("m", "lora"), Engine("m", "lora")
    async with one.worker, two.worker:
        live = await gateway_for(InOrder, workers=named(one, two), failover=QUICK, probes=ASKED)
        one.loaded = {"m"}
        one.listed = ["m"]
        answer = await ask(live)
        assert (answer.status_code, answer.headers["x-gateway-attempts"]) == (200, "a=404, b=200")
        await until(lambda: live.gateway.workers.all[0].models == frozenset({"m"}))
        assert "x-gateway-attempts" not in (await ask(live)).headers, "it is not asked again"
        assert (await ask(live, "m")).headers["x-gateway-worker"] == "a"


async def test_worker_is_avoided_although_its_list_still_has_the_model(
    gateway_for: GatewayFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_worker, "DENIED_SECONDS", 0.3)
    one, two = Engine("m", "lora"), Engine("m", "lora")
    async with one.worker, two.worker:
        live = await gateway_for(InOrder, workers=named(one, two), failover=QUICK, probes=ASKED)
        one.loaded = {"m"}
        assert [(await ask(live)).status_code for _ in range(5)] == [200] * 5
        assert one.calls == 1
        await until(lambda: one.looks == 2)
        one.loaded = {"m", "lora"}
        await until(lambda: not live.gateway.workers.all[0].denied)
        assert (await ask(live)).headers["x-gateway-worker"] == "a"


async def test_worker_takes_calls_again_once_its_list_has_the_model_anew(
    gateway_for: GatewayFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.fleet.probes.MIN_ROUND_INTERVAL", 0.02)
    one, two = Engine("m", "lora"), Engine("m", "lora")
    async with one.worker, two.worker:
        live = await gateway_for(InOrder, workers=named(one, two), failover=QUICK, probes=ASKED)
        one.loaded, one.listed = {"m"}, ["m"]
        await ask(live)
        await until(lambda: live.gateway.workers.all[0].models == frozenset({"m"}))
        one.loaded, one.listed = {"m", "lora"}, ["m", "lora"]
        await until(lambda: live.gateway.workers.all[0].serves("lora"))
        assert (await ask(live)).headers["x-gateway-worker"] == "a"


@pytest.mark.parametrize("models", [("m", "lora"), ()], ids=["named", "unknown"])
async def test_worker_whose_list_is_not_asked_is_avoided_too(
    gateway_for: GatewayFor, models: tuple[str, ...]
) -> None:
    one, two = Engine("m"), Engine("m", "lora")
    async with one.worker, two.worker:
        workers = named(one, two, models=models)
        live = await gateway_for(InOrder, workers=workers, failover=QUICK, probes=UNASKED)
        assert [(await ask(live)).status_code for _ in range(4)] == [200] * 4
        assert [(await ask(live, "m")).status_code for _ in range(2)] == [200] * 2
        assert (one.calls, two.calls) == (3, 4)


async def test_caller_gets_the_404_if_every_worker_denies_the_model(
    gateway_for: GatewayFor,
) -> None:
    one, two = Engine("m", "lora"), Engine("m", "lora")
    async with one.worker, two.worker:
        live = await gateway_for(InOrder, workers=named(one, two), failover=QUICK, probes=ASKED)
        one.loaded = two.loaded = {"m"}
        for _ in range(2):
            answer = await ask(live)
            assert (answer.status_code, answer.content) == (404, unknown("lora"))
        assert (await ask(live, "m")).status_code == 200


async def test_only_worker_with_a_model_is_asked_although_it_denied_it(
    gateway_for: GatewayFor,
) -> None:
    one, two = Engine("m", "lora"), Engine("m")
    async with one.worker, two.worker:
        live = await gateway_for(InOrder, workers=named(one, two), failover=QUICK, probes=ASKED)
        one.loaded = {"m"}
        for calls in (1, 2):
            answer = await ask(live)
            assert (answer.status_code, answer.headers["x-gateway-worker"]) == (404, "a")
            assert (one.calls, two.calls) == (calls, 0)
        one.loaded = {"m", "lora"}
        assert (await ask(live)).status_code == 200


async def test_model_that_nobody_lists_is_denied_once(gateway_for: GatewayFor) -> None:
    one, two = Engine("m"), Engine("m")
    async with one.worker, two.worker:
        live = await gateway_for(InOrder, workers=named(one, two), failover=QUICK, probes=ASKED)
        answer = await ask(live, "made-up")
        assert (answer.status_code, answer.content) == (404, unknown("made-up"))
        assert "x-gateway-attempts" not in answer.headers
        assert two.calls == 0


async def test_adapter_that_was_loaded_on_another_worker_just_now_is_found(
    gateway_for: GatewayFor,
) -> None:
    one, two = Engine("m"), Engine("m")
    async with one.worker, two.worker:
        live = await gateway_for(InOrder, workers=named(one, two), failover=QUICK, probes=ASKED)
        two.loaded, two.listed = {"m", "lora"}, ["m", "lora"]
        answer = await ask(live)
        assert (answer.status_code, answer.headers["x-gateway-attempts"]) == (200, "a=404, b=200")


async def test_denial_is_learnt_without_failover(gateway_for: GatewayFor) -> None:
    one, two = Engine("m"), Engine("m", "lora")
    async with one.worker, two.worker:
        workers = named(one, two, models=("m", "lora"))
        alone = replace(QUICK, max_workers=1)
        live = await gateway_for(InOrder, workers=workers, failover=alone, probes=UNASKED)
        assert [(await ask(live)).status_code for _ in range(3)] == [404, 200, 200]


async def test_made_up_models_do_not_fill_the_memory(gateway_for: GatewayFor) -> None:
    one, two = Engine("m"), Engine("m")
    async with one.worker, two.worker:
        live = await gateway_for(InOrder, workers=named(one, two), failover=QUICK, probes=UNASKED)
        await asyncio.gather(*(ask(live, f"made-up-{n}") for n in range(100)))
        await ask(live, "x" * 2_000)
        for worker in live.gateway.workers.all:
            assert len(worker.denied) <= fleet_worker.MAX_DENIED
            assert max(map(len, worker.denied), default=0) <= fleet_worker.MAX_DENIED_CHARS


async def test_other_404_denies_nothing(gateway_for: GatewayFor) -> None:
    said = answer_of(b'{"detail":"Not Found"}', status="404 Not Found")
    two = Engine("m")
    async with ScriptedWorker(said) as one, two.worker:
        urls = {"a": one.url, "b": two.worker.url}
        workers = tuple(Settings(url=url, worker_id=name) for name, url in urls.items())
        live = await gateway_for(InOrder, workers=workers, failover=QUICK, probes=UNASKED)
        answer = await ask(live, "m")
        assert (answer.status_code, answer.headers["x-gateway-worker"]) == (404, "a")
        assert not live.gateway.workers.all[0].denied
    assert two.calls == 0


NAMES = ("m", "lora", "other")
subsets = st.none() | st.frozensets(st.sampled_from(NAMES), min_size=1)
steps = st.lists(
    st.tuples(
        st.sampled_from(["deny", "list", "forget"]),
        st.integers(0, 2),
        st.sampled_from(NAMES),
        subsets,
    )
)


@given(steps)
async def test_model_is_served_exactly_if_a_worker_claims_it(
    taken: list[tuple[str, int, str, frozenset[str] | None]],
) -> None:
    """Whatever workers deny and list, in whatever order; and who does not deny comes first."""
    workers = Workers(Config(workers=tuple(Settings(url=f"http://w{n}") for n in range(3))))
    for what, number, model, models in taken:
        worker = workers.all[number]
        if what == "deny":
            workers.deny(worker, model)
        elif what == "list":
            worker.learn_models(models)
        else:
            worker._forget(model)
        for name in NAMES:
            claiming = [one for one in workers.all if one.claims(name)]
            willing = [one for one in claiming if name not in one.denied]
            assert list(workers.serving(name).all) == (willing or claiming)
            if not workers.mixed:
                assert len({one.serves(name) for one in workers.all}) == 1
