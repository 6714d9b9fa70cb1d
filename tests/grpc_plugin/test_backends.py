"""Several backends, of which one is OpenAI's own API, behind gRPC and behind HTTP."""

import asyncio
import contextlib
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import trustme
from support.gateways.serving_process import LISTENS, Process, started
from support.grpc.stubs import PORT, as_of_old, channel, make_stubs
from support.paths import CONFIGS
from support.workers.openai_api import KEY, MODELS, TEXT, openai_api

from gateway.config import TLS, Worker
from gateway.simulator import Simulator
from gateway.testing import GatewayFor, ScriptedWorker

CALLERS_KEY = "key-of-the-caller"
CHAT = "/v1/chat/completions"
HEADERS = {"authorization": f"Bearer {CALLERS_KEY}", "x-api-key": CALLERS_KEY}


@pytest.fixture
async def openai(ca: trustme.CA) -> AsyncIterator[ScriptedWorker]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    async with openai_api(context) as worker:
        yield worker


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


class Backends:
    """`configs/grpc.yaml` as shipped, but for the addresses; the system trusts the CA if asked."""

    def __init__(self, simulator: Simulator, openai: ScriptedWorker, ca: trustme.CA, folder: Path):
        self._file = folder / "gateway.yaml"
        self._ca = folder / "ca.pem"
        ca.cert_pem.write_to_path(str(self._ca))
        text = (CONFIGS / "grpc.yaml").read_text(encoding="utf-8")
        for ours, theirs in (
            ("http://127.0.0.1:8000/v1", f"{simulator.url}/v1"),
            ("https://api.openai.com/v1", f"{openai.url}/v1"),
            ("port: 50052", "port: 0"),
        ):
            assert ours in text
            text = text.replace(ours, theirs)
        self._file.write_text(text, encoding="utf-8")

    def name_the_ca(self) -> None:
        text = self._file.read_text(encoding="utf-8")
        named = f"inject: false\n    tls: {{ca_file: {self._ca}}}\n"
        self._file.write_text(re.sub(r"inject: false.*\n", named, text), encoding="utf-8")

    def trusted(self) -> dict[str, str]:
        """The environment of a system that trusts the CA."""
        return {"SSL_CERT_FILE": str(self._ca)}

    @contextlib.asynccontextmanager
    async def serve(self, environ: Mapping[str, str]) -> AsyncIterator[tuple[Process, int]]:
        arguments = ("serve", "--port", "0", "--config", str(self._file))
        async with started(*arguments, environment={"OPENAI_API_KEY": KEY, **environ}) as process:
            port = int((await process.says(PORT))[1])
            host, at = (await process.says(LISTENS)).groups()
            process.address = (host.decode(), int(at))
            yield process, port


@pytest.fixture
def backends(
    simulator: Simulator, openai: ScriptedWorker, ca: trustme.CA, tmp_path: Path
) -> Backends:
    return Backends(simulator, openai, ca, tmp_path)


class Caller:
    """Stubs of old before the gateway; each call gives its text, or its code and reason."""

    def __init__(self, port: int, folder: Path) -> None:
        self._port = port
        self._messages, self._stubs = make_stubs(as_of_old(folder), folder)

    async def title(self, model: str) -> str:
        return str((await self._ask("ChatCompletion", model))[0].output_text)

    async def answer(self, model: str) -> tuple[str, int]:
        *chunks, last = await self._ask("ChatCompletionStream", model)
        return "".join(chunk.deltaText for chunk in chunks), int(last.totalTokens)

    async def _ask(self, method: str, model: str) -> list[Any]:
        asked = self._messages.ChatCompletionRequest(
            model=model, user_prompt="Hi", temperature=0.7, max_tokens=4, top_p=0.95
        )
        metadata = tuple(HEADERS.items())

        def ask() -> list[Any]:
            with channel(self._port) as opened:
                stub = getattr(self._stubs.LlmServiceStub(opened), method)
                found = stub(asked, timeout=10, metadata=metadata)
                return list(found) if method.endswith("Stream") else [found]

        return await asyncio.to_thread(ask)


async def test_model_chooses_between_a_vllm_and_openai(
    backends: Backends, openai: ScriptedWorker, simulator: Simulator, tmp_path: Path
) -> None:
    async with backends.serve(backends.trusted()) as (process, port):
        caller = Caller(port, tmp_path)
        assert await caller.title("gpt-4.1") == "".join(TEXT)
        assert await caller.answer("gpt-4.1-mini") == ("".join(TEXT), 11)
        assert await caller.title("") == "".join(TEXT), "the default model is one of OpenAI's"
        assert len(openai.requests) >= 3
        before = len(of_chats(openai))
        assert (await caller.answer("sim"))[0]
        with pytest.raises(grpc.RpcError) as refused:
            await caller.title("gpt-nought")
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        await asked_over_http(process.url)
        assert len(of_chats(openai)) == before + 3
        assert simulator.stats.in_flight == 0
    assert all(CALLERS_KEY.encode() not in request for request in openai.requests)


def of_chats(openai: ScriptedWorker) -> list[bytes]:
    return [one for one in openai.requests if one.startswith(b"POST ")]


async def asked_over_http(url: str) -> None:
    """As a caller over HTTP who has a key of its own, which is nobody's but the gateway's."""
    body = {"model": MODELS[0], "messages": [{"role": "user", "content": "Hi"}]}
    async with httpx.AsyncClient(base_url=url, headers=HEADERS) as client:
        plain = await client.post(CHAT, json=body)
        assert plain.json()["choices"][0]["message"]["content"] == "".join(TEXT)
        stream = await client.post(CHAT, json=body | {"stream": True})
        assert stream.text.endswith("data: [DONE]\n\n")
        ours = await client.post(CHAT, json=body | {"model": "sim"})
        assert ours.status_code == 200
        wrong = await client.post(CHAT, json=body | {"return_token_ids": True})
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, "unknown_parameter")
        health = (await client.get("/health/workers")).json()
    assert [worker["healthy"] for worker in health["workers"]] == [True, True]


async def test_fault_11_a_worker_of_an_unknown_authority_fails_unless_the_ca_is_named(
    backends: Backends, openai: ScriptedWorker, tmp_path: Path
) -> None:
    async with backends.serve({}) as (_, port):
        with pytest.raises(grpc.RpcError) as refused:
            await Caller(port, tmp_path).title("gpt-4.1")
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert openai.requests == []
    backends.name_the_ca()
    async with backends.serve({}) as (_, port):
        assert await Caller(port, tmp_path).title("gpt-4.1") == "".join(TEXT)


async def test_wrong_key_of_the_worker_shows_in_its_probes(
    backends: Backends, openai: ScriptedWorker
) -> None:
    environ = {"OPENAI_API_KEY": "sk-5f3a", "GATEWAY_PROBES__INTERVAL": "0.02"}
    async with backends.serve(backends.trusted() | environ) as (process, _):
        await process.says(re.compile(rb"is down: GET /v1/models: the answer's status is 401"))
        assert b"sk-5f3a" not in process.log
    assert openai.requests


async def test_injections_that_openai_rejects_are_left_out_of_later_calls(
    gateway_for: GatewayFor, openai: ScriptedWorker
) -> None:
    own = {"Authorization": f"Bearer {KEY}"}
    worker = Worker(url=openai.url, headers=own, models=MODELS, tls=TLS(verify=False))
    live = await gateway_for("trace_capture", workers=(worker,))
    body = {"model": MODELS[0], "messages": [{"role": "user", "content": "Hi"}]}
    for attempts in (3, 1):
        openai.requests.clear()
        answer = await live.client.post(CHAT, json=body)
        assert answer.json()["choices"][0]["message"]["content"] == "".join(TEXT)
        assert len(of_chats(openai)) <= attempts
    assert live.gateway.workers.all[0].refusals
