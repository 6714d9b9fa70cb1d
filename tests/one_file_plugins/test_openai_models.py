"""One list of models for all workers: `GET /v1/models` and `/v1/models/{id}` by `openai_models`."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import unquote

import httpx
import msgspec
import pytest
from gateway_plugins.openai_models import (
    MAX_BODY,
    MAX_MODELS,
    MAX_NAME_LENGTH,
    MAX_VIEWS,
    OpenaiModels,
    Round,
    View,
    read_cards,
)
from hypothesis import given
from hypothesis import strategies as st
from support.plugins.recording_plugin import until

from gateway import Call, Config, Gateway, Principal, hookimpl
from gateway.config import PluginEntry, StorageSettings, Worker
from gateway.simulator import Simulator
from gateway.testing import (
    GatewayFor,
    Live,
    ScriptedConnection,
    ScriptedWorker,
    answer_of,
    entry,
    live,
)

MODELS = "/v1/models"
ALWAYS = entry("openai_models", max_age=0)
RARELY = entry("openai_models", max_age=3600, timeout=60)


class Engine:
    """Says that it has `models`, whose cards name it; `reply`, if there is one, in place of it.

    While `may_answer` is not set it waits.
    """

    def __init__(self, name: str, *models: str) -> None:
        self.name = name
        self.models = models
        self.reply: bytes | None = None
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.server = ScriptedWorker(self._serve)

    async def _serve(self, connection: ScriptedConnection) -> None:
        while True:
            await connection.read_request()
            await self.may_answer.wait()
            await connection.write(self.reply or answer_of(listed(*map(self.card, self.models))))

    def card(self, model: str) -> bytes:
        return b'{"id" : "%b", "owned_by": "%b", "x": 1.50}' % (model.encode(), self.name.encode())

    @property
    def asked(self) -> int:
        return len(self.server.requests)


def listed(*cards: bytes) -> bytes:
    return b'{"object":"list","data":[' + b",".join(cards) + b"]}"


class Rights:
    """Lets everybody in, bound to what the headers `models` and `workers` name."""

    @hookimpl
    async def authenticate(self, call: Call) -> Principal:
        models, workers = (call.header(name) for name in ("models", "workers"))
        return Principal("anybody", models=named(models), workers=named(workers))


def named(header: str | None) -> frozenset[str] | None:
    return None if header is None else frozenset(header.split())


@asynccontextmanager
async def serving(*engines: Engine) -> AsyncIterator[list[Worker]]:
    """Workers with the engines' names."""
    async with AsyncExitStack() as stack:
        for engine in engines:
            await stack.enter_async_context(engine.server)
        yield [Worker(url=engine.server.url, worker_id=engine.name) for engine in engines]


async def seen(running: Live, path: str = MODELS, **headers: str) -> list[str]:
    answer = await running.client.get(path, headers=headers)
    assert answer.status_code == 200, answer.text
    return [card["id"] for card in answer.json()["data"]]


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


async def test_model_list_merges_all_workers_with_the_first_card_of_a_name(
    gateway_for: GatewayFor,
) -> None:
    one, other = Engine("one", "base", "zeta"), Engine("other", "alpha", "base")
    async with serving(one, other) as workers:
        running = await gateway_for("openai_models", workers=workers)
        answer = await running.client.get(MODELS)
    cards = (one.card("base"), one.card("zeta"), other.card("alpha"))
    assert answer.content == listed(*cards), "as the engines write them"
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/v1/models/", "/sessions/s/v1/models/", "/v1/%6Dodels/"])
@pytest.mark.parametrize("name", ["org/base", "org%2Fbase"])
async def test_model_route_returns_the_card_of_one_model(
    gateway_for: GatewayFor, path: str, name: str
) -> None:
    engine = Engine("one", "lora", "org/base")
    async with serving(engine) as workers:
        running = await gateway_for("sessions", "openai_models", workers=workers)
        for path in ("/v1/models/", "/sessions/s/v1/models/", "/v1/%6Dodels/"):
            for name in ("org/base", "org%2Fbase"):
                answer = await running.client.get(path + name)
                assert (answer.status_code, answer.content) == (200, engine.card("org/base"))


async def test_unknown_model_returns_404_in_the_words_of_vllm(gateway_for: GatewayFor) -> None:
    running = await gateway_for("openai_models")
    for name in ("no", "", "sim/", "%00", "sim" * 1000):
        answer = await running.client.get("/v1/models/" + name)
        assert answer.status_code == 404
        assert answer.json()["error"] == {
            "message": f"The model `{unquote(name)[:200]}` does not exist.",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, ["a", "both", "b"]),
        ({"models": "both b elsewhere"}, ["both", "b"]),
        ({"workers": "two"}, ["both", "b"]),
        ({"workers": "two", "models": "a"}, []),
        ({"models": ""}, []),
    ],
)
async def test_model_list_shows_only_models_the_caller_may_use(
    gateway_for: GatewayFor, headers: Mapping[str, str], expected: list[str]
) -> None:
    async with serving(Engine("one", "a", "both"), Engine("two", "both", "b")) as workers:
        running = await gateway_for(Rights, RARELY, workers=workers)
        assert await seen(running) == ["a", "both", "b"], "and it is not kept for others"
        assert await seen(running, **headers) == expected
        for name in ("a", "both", "b"):
            answer = await running.client.get(f"{MODELS}/{name}", headers=dict(headers))
            assert answer.status_code == (200 if name in expected else 404)
        card = await running.client.get(f"{MODELS}/both", headers={"workers": "two"})
        assert card.json()["owned_by"] == "two"


async def test_model_list_fails_if_the_caller_may_use_no_worker(
    gateway_for: GatewayFor,
) -> None:
    running = await gateway_for(Rights, "openai_models")
    answer = await running.client.get(MODELS, headers={"workers": "elsewhere"})
    assert code_of(answer) == (503, "no_worker")
    assert answer.headers["retry-after"] == "1"


def test_cached_model_lists_are_bounded() -> None:
    worker: Any = None
    said = Round((), [(worker, {"a": b"{}", "b": b"{}"})], {})
    for i in range(MAX_VIEWS * 2):
        assert list(said.listing(View(frozenset({"b", str(i)}), None)).cards) == ["b"]
        assert len(said.listings) <= MAX_VIEWS
    assert said.listing(View(None, None)) is said.listing(View(None, None))


# how often workers are asked


async def test_model_list_queries_each_worker_once_for_many_calls(gateway_for: GatewayFor) -> None:
    one, two = Engine("one", "a"), Engine("two", "b")
    one.may_answer.clear()
    async with serving(one, two) as workers:
        running = await gateway_for(RARELY, workers=workers)
        flood = [asyncio.create_task(seen(running)) for _ in range(30)]
        await until(lambda: len(running.gateway.proxy.in_flight) == 30)
        one.may_answer.set()
        assert await asyncio.gather(*flood) == [["a", "b"]] * 30
        await seen(running)
    assert (one.asked, two.asked) == (1, 1)


async def test_caller_disconnect_does_not_cancel_a_shared_model_query(
    gateway_for: GatewayFor,
) -> None:
    engine = Engine("one", "a")
    engine.may_answer.clear()
    async with serving(engine) as workers:
        running = await gateway_for(RARELY, workers=workers)
        leaves, stays = (asyncio.create_task(seen(running)) for _ in range(2))
        await until(lambda: len(running.gateway.calls_in_flight) == 2)
        leaves.cancel()
        await until(lambda: len(running.gateway.calls_in_flight) == 1)
        engine.may_answer.set()
        assert await stays == ["a"]
    assert engine.asked == 1


async def test_model_list_is_cached_until_workers_change(gateway_for: GatewayFor) -> None:
    one, two, three = Engine("one", "a"), Engine("two", "b"), Engine("three", "c")
    async with serving(one, two, three) as workers:
        running = await gateway_for(RARELY, workers=workers[:2])
        assert await seen(running) == ["a", "b"]
        one.models = ("a", "lora")
        assert await seen(running) == ["a", "b"]
        running.gateway.workers.add(workers[2])
        assert await seen(running) == ["a", "lora", "b", "c"]
        running.gateway.workers.all[1].mark("test", "down", "for a test")
        assert await seen(running) == ["a", "lora", "c"]


async def test_model_list_reload_changes_the_cache_time(gateway_for: GatewayFor) -> None:
    engine = Engine("one", "a")
    async with serving(engine) as workers:
        running = await gateway_for(RARELY, workers=workers)
        await seen(running)
        running.plugin(OpenaiModels).reconfigure(OpenaiModels.Config(max_age=0))
        engine.models = ("b",)
        assert await seen(running) == ["b"]


# workers that say nothing, or nonsense


NONSENSE = {
    "an error": answer_of(b'{"error": "Unauthorized"}', status="401 Unauthorized"),
    "a failure": answer_of(listed(b'{"id": "x"}'), status="500 Oops"),
    "no JSON": answer_of(b"<html>", content_type="text/html"),
    "no list": answer_of(b'{"data": {"id": "x"}}'),
    "no card": answer_of(listed(b'"x"')),
    "no name": answer_of(listed(b'{"id": 7}')),
    "no text": answer_of(listed(b'{"id": "x", "root": "\xff"}')),
    "too deep": answer_of(listed(b'{"id": "x", "root": %b}' % (b"[" * 20_000))),
    "too many": answer_of(listed(*(b'{"id": "%d"}' % i for i in range(MAX_MODELS + 1)))),
    "too long a name": answer_of(listed(b'{"id": "%b"}' % (b"x" * (MAX_NAME_LENGTH + 1)))),
    "too large": answer_of(listed(b'{"id": "x", "root": "%b"}' % (b"x" * MAX_BODY))),
    "no HTTP": b"nonsense\r\n\r\n",
}


@pytest.mark.parametrize("what", NONSENSE)
async def test_model_list_keeps_the_last_valid_answer_of_a_failing_worker(
    gateway_for: GatewayFor, what: str
) -> None:
    one, two = Engine("one", "a"), Engine("two", "b")
    one.reply = NONSENSE[what]
    async with serving(one, two) as workers:
        running = await gateway_for(ALWAYS, workers=workers)
        assert await seen(running) == ["b"]
        one.reply = None
        assert await seen(running) == ["a", "b"]
        one.reply = NONSENSE[what]
        assert await seen(running) == ["a", "b"]


async def test_model_list_skips_a_silent_worker_after_its_timeout(
    gateway_for: GatewayFor,
) -> None:
    engine = Engine("one", "a")
    engine.may_answer.clear()
    async with serving(engine) as workers:
        named = Worker(url=workers[0].url, worker_id="two", models=("b",))
        impatient = entry("openai_models", max_age=3600, timeout=0.01)
        running = await gateway_for(impatient, workers=[*workers, named])
        assert await seen(running) == ["b"]


async def test_model_list_forgets_models_of_a_worker_with_a_new_url(
    gateway_for: GatewayFor,
) -> None:
    one, two = Engine("one", "a"), Engine("two")
    two.reply = answer_of(b"{}")
    async with serving(one, two) as workers:
        running = await gateway_for(ALWAYS, workers=workers[:1])
        assert await seen(running) == ["a"]
        [worker] = running.gateway.workers.all
        settings = msgspec.structs.replace(worker.settings, url=workers[1].url)
        config = msgspec.structs.replace(running.gateway.config, workers=(settings,))
        running.gateway.workers.plan(config)()
        answer = await running.client.get(MODELS)
    assert code_of(answer) == (503, "no_worker")


@pytest.mark.parametrize("down", [False, True])
async def test_model_list_fails_if_no_worker_responds(gateway_for: GatewayFor, down: bool) -> None:
    async with ScriptedWorker(answer_of(b"{}")) as worker:
        running = await gateway_for(RARELY, workers=[worker.url])
        if down:
            running.gateway.workers.all[0].mark("test", "down", "for a test")
        for path in (MODELS, MODELS + "/a"):
            answer = await running.client.get(path)
            assert code_of(answer) == (503, "no_worker")
            assert answer.headers["retry-after"] == "1"
    assert len(worker.requests) == (0 if down else 1)


async def test_model_list_may_be_empty(gateway_for: GatewayFor) -> None:
    async with serving(Engine("one")) as workers:
        running = await gateway_for("openai_models", workers=workers)
        assert await seen(running) == []


# what the configuration says


async def test_model_list_uses_configured_models_with_the_worker_s_cards(
    gateway_for: GatewayFor,
) -> None:
    engine = Engine("one", "hidden", "lora")
    async with serving(engine) as workers:
        named = Worker(url=workers[0].url, model_name="base", models=("lora", "base"))
        running = await gateway_for(RARELY, workers=[named])
        first, again = [(await running.client.get(MODELS)).content for _ in range(2)]
    base, lora = msgspec.json.decode(first)["data"]
    assert first == again
    assert lora == msgspec.json.decode(engine.card("lora"))
    assert isinstance(base.pop("created"), int)
    assert base == {"id": "base", "object": "model", "owned_by": "gateway"}


async def test_model_list_falls_back_to_probed_models(
    gateway_for: GatewayFor,
) -> None:
    async with ScriptedWorker(answer_of(b"{}")) as worker:
        running = await gateway_for("openai_models", workers=[worker.url])
        running.gateway.workers.all[0].models = frozenset({"b", "a"})
        assert await seen(running) == ["a", "b"]


@pytest.mark.parametrize(
    ("model", "headers", "expected"),
    [("b", {}, ["b"]), ("b", {"models": "a b"}, ["b"]), ("b", {"models": "a"}, []), ("z", {}, [])],
)
async def test_model_list_contains_only_a_pinned_model(
    gateway_for: GatewayFor, model: str, headers: Mapping[str, str], expected: list[str]
) -> None:
    async with serving(Engine("one", "a", "b")) as workers:
        running = await gateway_for(Rights, "openai_models", workers=workers, model=model)
        assert await seen(running, **headers) == expected


@pytest.mark.parametrize("options", [{"max_age": -1}, {"timeout": 0}, {"kept": 1}])
def test_openai_models_rejects_invalid_options(options: dict[str, float]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(options, OpenaiModels.Config)


# where there is more, or less, than a list to ask for


async def test_model_list_of_a_local_handler_is_local() -> None:
    async def answer(body: dict[str, Any]) -> dict[str, Any]:
        return {}

    plugin: PluginEntry = entry("openai_models")
    gateway = Gateway(
        Config(plugins=(plugin,), storage=StorageSettings(path=":memory:")), local_handler=answer
    )
    async with live(gateway) as running:
        assert await seen(running) == ["local"]
        assert (await running.client.get(MODELS + "/local")).json()["id"] == "local"


@pytest.mark.parametrize(("method", "path"), [("POST", MODELS), ("HEAD", MODELS), ("GET", "/v1/m")])
async def test_other_model_requests_are_forwarded_to_a_worker(
    gateway_for: GatewayFor, simulator: Simulator, method: str, path: str
) -> None:
    running = await gateway_for("openai_models")
    answer = await running.client.request(method, path)
    assert answer.headers["x-gateway-worker"]


# reading


@given(st.binary(max_size=200) | st.binary(max_size=100).map(lambda card: listed(card)))
def test_read_cards_survives_any_bytes(body: bytes) -> None:
    read_cards(body)


leaves = st.none() | st.booleans() | st.integers() | st.floats(-1e9, 1e9) | st.text()
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=3,
)
cards = st.builds(
    lambda name, more: {**more, "id": name},
    st.text(max_size=4),
    st.dictionaries(st.text(max_size=4), values, max_size=3),
)


@given(st.lists(st.lists(cards, max_size=4), min_size=1, max_size=2), st.sets(st.text(max_size=2)))
def test_view_merges_any_cards_unchanged(
    workers: Sequence[Sequence[Mapping[str, object]]], allowed: set[str]
) -> None:
    """By the simplest way to say it: in order, each name once, its first card."""
    told = [read_cards(json.dumps({"data": list(cards)}).encode()) for cards in workers]
    worker: Any = None
    found = View(None, None).cards([(worker, cards) for cards in told], {})
    every = [card for cards in workers for card in cards]
    first = {str(card["id"]): card for card in reversed(every)}
    assert list(found) == list(dict.fromkeys(str(card["id"]) for card in every))
    assert {name: json.loads(card) for name, card in found.items()} == first
    some = View(frozenset(allowed), None).cards([(worker, cards) for cards in told], {})
    assert list(some) == [name for name in found if name in allowed]
