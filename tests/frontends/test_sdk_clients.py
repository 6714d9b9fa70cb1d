"""The `openai` and `anthropic` clients before a gateway that asks for keys, and refuses."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from support.callers.sdk_clients import KINDS, KeyHeader, Kind
from support.records.vllm_recordings import RecordedExchange, load
from support.workers.playing import raw

from gateway import Call, CallError, NoWorker, TooManyRequests, hookimpl
from gateway.config import PluginEntry, Worker
from gateway.testing import GatewayFor, ScriptedConnection, ScriptedWorker, entry

KEYS: list[Mapping[str, object]] = [
    {"id": "anybody", "token": "gw-anybody", "scopes": ["realtime"]},
    {"id": "uploader", "token": "gw-uploader", "scopes": ["upload"]},
    {"id": "bound", "token": "gw-bound", "scopes": ["realtime"], "models": ["other"]},
]

CUT = r"Connection error|incomplete chunked read"
"""What clients say of a stream that broke off."""

pytestmark = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def auth(tmp_path: Path) -> PluginEntry:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": KEYS}))
    file.chmod(0o600)
    return entry("auth", keys_file=str(file))


@asynccontextmanager
async def engine(kind: Kind, *, breaks_off: bool = False) -> AsyncIterator[ScriptedWorker]:
    """A worker that says what vLLM said to such a call; or but the first events of a stream."""

    async def script(connection: ScriptedConnection) -> None:
        while True:
            request = await connection.read_request()
            if breaks_off:
                await connection.write(first_events(load()[kind.stream]))
                return
            streamed = b'"stream":true' in request
            await connection.write(raw(load()[kind.stream if streamed else kind.plain]))

    async with ScriptedWorker(script) as worker:
        yield worker


def first_events(exchange: RecordedExchange, count: int = 5) -> bytes:
    end = 0
    for _ in range(count):
        end = exchange.body.index(b"\n\n", end) + 2
    begun = msgspec.structs.replace(exchange, body=exchange.body[:end], cut_short="for a test")
    return raw(begun)


class Refusing:
    """Refuses the first `times` calls with `status`; they may come again at once."""

    class Config(msgspec.Struct, frozen=True):
        status: int
        times: int

    def __init__(self, config: Config) -> None:
        self._config = config
        self.retries: list[str | None] = []

    @hookimpl
    async def admit(self, call: Call) -> None:
        self.retries.append(call.header("x-stainless-retry-count"))
        if len(self.retries) <= self._config.times:
            raise self._refusal()

    def _refusal(self) -> CallError:
        error = TooManyRequests("slowly") if self._config.status == 429 else NoWorker("nobody")
        error.headers = ((b"retry-after", b"1"), (b"retry-after-ms", b"1"))
        return error


def error_of(kind: Kind, name: str) -> type[Exception]:
    found: type[Exception] = getattr(kind.errors, name)
    return found


@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
async def test_sdk_client_with_a_key_gets_responses_and_hides_its_key(
    gateway_for: GatewayFor, auth: PluginEntry, kind: Kind, header: KeyHeader
) -> None:
    plain, streamed = (load()[name].body.decode() for name in (kind.plain, kind.stream))
    async with engine(kind) as worker:
        live = await gateway_for(auth, workers=[worker.url])
        async with kind(live.url, "gw-anybody", header=header) as client:
            text, texts = await client.ask(), list[str]()
            await client.read(texts)
    assert text
    assert json.dumps(text, ensure_ascii=False) in plain
    assert len(texts) > 2
    for part in texts:
        assert json.dumps(part, ensure_ascii=False) in streamed
    for request in worker.requests:
        assert kind.path.encode() in request
        assert b"gw-anybody" not in request


# refusals


@pytest.mark.parametrize(
    ("key", "error", "code", "type_", "words"),
    [
        ("gw-nobody", "AuthenticationError", "invalid_api_key", "authentication_error", "key"),
        ("gw-uploader", "PermissionDeniedError", "missing_scope", "permission_error", "realtime"),
        ("gw-bound", "PermissionDeniedError", "model_not_allowed", "permission_error", "tiny"),
    ],
)
async def test_sdk_client_without_permission_raises_the_reason(
    gateway_for: GatewayFor,
    auth: PluginEntry,
    kind: Kind,
    key: str,
    error: str,
    code: str,
    type_: str,
    words: str,
) -> None:
    async with engine(kind) as worker:
        live = await gateway_for(auth, workers=[worker.url])
        async with kind(live.url, key, retries=2) as client:
            for asked in (client.ask(), client.read([])):
                with pytest.raises(error_of(kind, error)) as caught:
                    await asked
                said = client.said(caught.value)
                assert said[:2] == (code, type_)
                assert words in said[2]
                assert said[2] in str(caught.value)
    assert worker.requests == []


async def test_sdk_client_raises_not_found_for_an_unserved_model(
    gateway_for: GatewayFor, auth: PluginEntry, kind: Kind
) -> None:
    async with engine(kind) as worker:
        both = [Worker(url=worker.url, worker_id=name, models=(name,)) for name in ("a", "b")]
        live = await gateway_for(auth, workers=both)
        async with kind(live.url, "gw-anybody") as client:
            with pytest.raises(error_of(kind, "NotFoundError")) as caught:
                await client.ask(model="c")
    code, _, message = client.said(caught.value)
    assert (code, message) == ("model_not_found", "The model `c` does not exist.")


@pytest.mark.parametrize("status", [429, 503])
async def test_sdk_client_retries_a_temporary_rejection(
    gateway_for: GatewayFor, auth: PluginEntry, kind: Kind, status: int
) -> None:
    async with engine(kind) as worker:
        refusing = entry(Refusing, status=status, times=1)
        live = await gateway_for(auth, refusing, workers=[worker.url])
        async with kind(live.url, "gw-anybody", retries=2) as client:
            assert await client.ask()
    assert live.plugin(Refusing).retries == ["0", "1"]


@pytest.mark.parametrize(
    ("status", "error", "code", "type_"),
    [
        (429, "RateLimitError", "rate_limit_exceeded", "rate_limit_error"),
        (503, "InternalServerError", "no_worker", "overloaded_error"),
    ],
)
async def test_sdk_client_raises_the_rejection_after_its_last_retry(
    gateway_for: GatewayFor,
    auth: PluginEntry,
    kind: Kind,
    status: int,
    error: str,
    code: str,
    type_: str,
) -> None:
    refusing = entry(Refusing, status=status, times=9)
    live = await gateway_for(auth, refusing)
    async with kind(live.url, "gw-anybody", retries=2) as client:
        with pytest.raises(error_of(kind, error)) as caught:
            await client.ask()
    assert client.said(caught.value)[:2] == (code, type_)
    assert live.plugin(Refusing).retries == ["0", "1", "2"]


# what the worker says, or fails to


async def test_sdk_client_of_a_cut_stream_raises_what_it_raises_without_a_gateway(
    gateway_for: GatewayFor, auth: PluginEntry, kind: Kind
) -> None:
    async with engine(kind, breaks_off=True) as worker:
        live = await gateway_for(auth, workers=[worker.url])
        ends = []
        for url in (worker.url, live.url):
            async with kind(url, "gw-anybody", retries=2) as client:
                texts: list[str] = []
                with pytest.raises(Exception, match=CUT) as caught:
                    await client.read(texts)
                ends.append((type(caught.value), str(caught.value), texts))
    assert ends[0] == ends[1]
    assert ends[0][2]
    assert len(worker.requests) == 2


async def test_sdk_client_of_a_cut_stream_raises_the_error_of_its_event(
    gateway_for: GatewayFor, auth: PluginEntry, kind: Kind
) -> None:
    async with engine(kind, breaks_off=True) as worker:
        live = await gateway_for(auth, workers=[worker.url], stream_errors="event")
        async with kind(live.url, "gw-anybody", retries=2) as client:
            texts: list[str] = []
            with pytest.raises(error_of(kind, "APIError")) as caught:
                await client.read(texts)
    code, type_, message = client.said(caught.value)
    assert (str(code), type_) == ("502", "server_error")
    assert message == "502 server error: the worker broke off before its answer was whole"
    assert texts
    assert len(worker.requests) == 1


# the list of models


async def test_sdk_client_lists_only_models_its_key_may_use(
    gateway_for: GatewayFor, auth: PluginEntry, kind: Kind
) -> None:
    named = Worker(url="http://127.0.0.1:9", worker_id="w", models=("org/base", "other"))
    live = await gateway_for(auth, "openai_models", workers=[named])
    async with kind(live.url, "gw-anybody") as client:
        assert await client.models() == ["org/base", "other"]
        assert await client.model("org/base") == "org/base"
    async with kind(live.url, "gw-bound") as client:
        assert await client.models() == ["other"]
        with pytest.raises(error_of(kind, "NotFoundError")) as caught:
            await client.model("org/base")
    assert client.said(caught.value)[0] == "model_not_found"
