"""The worker of a call is one that serves its model, wherever the call names it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest

from gateway import Call, Principal, hookimpl
from gateway.config import Worker
from gateway.testing import GatewayFor, Live, ScriptedWorker, answer_of

SPEECH = "/v1/audio/transcriptions"


class Fleet(msgspec.Struct, frozen=True):
    live: Live
    chat: ScriptedWorker
    whisper: ScriptedWorker

    async def post(self, path: str = SPEECH, **parts: Any) -> str:
        answer = await self.live.client.post(path, **parts)
        assert answer.status_code == 200, answer.text
        return answer.text


class Bound:
    """All callers have a key for the model `whisper`."""

    @hookimpl
    async def authenticate(self, call: Call) -> Principal:
        return Principal("a", models=frozenset({"whisper"}))


@asynccontextmanager
async def fleet(gateway_for: GatewayFor, *plugins: str | type) -> AsyncIterator[Fleet]:
    async with (
        ScriptedWorker(answer_of(b"chat")) as chat,
        ScriptedWorker(answer_of(b"whisper")) as whisper,
    ):
        workers = [
            Worker(url=chat.url, models=("chat", "llama3:latest", "phi")),
            Worker(url=whisper.url, models=("whisper", "phi:latest")),
        ]
        yield Fleet(await gateway_for(*plugins, workers=workers), chat, whisper)


MODEL: dict[str, Any] = {"model": (None, "whisper")}
SMALL = {"file": ("a.wav", b"RIFF\0\xff")}
LARGE = {"file": ("a.wav", bytes(3 << 20))}


@pytest.mark.parametrize("files", [MODEL | SMALL, SMALL | MODEL, MODEL | LARGE, LARGE | MODEL])
@pytest.mark.parametrize("plugins", [(), ("sessions", "trace_capture", "stickiness")])
async def test_multipart_form_goes_to_the_worker_of_its_model(
    gateway_for: GatewayFor, files: dict[str, Any], plugins: tuple[str, ...]
) -> None:
    async with fleet(gateway_for, *plugins) as found:
        assert [await found.post(files=files) for _ in range(4)] == ["whisper"] * 4
        assert found.chat.requests == []
        sent = httpx.Request("POST", "http://h", files=files).read()
        assert len(found.whisper.requests[0].partition(b"\r\n\r\n")[2]) >= len(sent) - 100


async def test_form_that_sends_its_body_in_chunks_goes_to_the_worker_of_its_model(
    gateway_for: GatewayFor,
) -> None:
    request = httpx.Request("POST", "http://h", files=LARGE | MODEL)
    body, kind = request.read(), request.headers["content-type"]

    async def chunks() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 1 << 16):
            yield body[at : at + (1 << 16)]
            await asyncio.sleep(0)

    async with fleet(gateway_for) as found:
        assert await found.post(content=chunks(), headers={"content-type": kind}) == "whisper"


async def test_other_calls_go_to_the_worker_of_the_model_that_they_name(
    gateway_for: GatewayFor,
) -> None:
    padding = "x" * (2 << 20)
    async with fleet(gateway_for) as found:
        for _ in range(2):
            assert await found.post(data={"model": "whisper"}) == "whisper"
            assert await found.post("/v1/anything?model=whisper", json={}) == "whisper"
            long = {"input": padding, "model": "whisper"}
            assert await found.post("/v1/anything", json=long) == "whisper"
            answer = await found.live.client.get("/v1/realtime?model=whisper")
            assert answer.text == "whisper"


@pytest.mark.parametrize("path", ["/v1/models/{}", "/sessions/s/v1/models/{}", "/v1/models/{}?x"])
async def test_request_for_a_model_by_its_id_goes_to_a_worker_that_has_it(
    gateway_for: GatewayFor, path: str
) -> None:
    async with fleet(gateway_for, "sessions") as found:
        for id_, status, text in (
            ("whisper", 200, "whisper"),
            ("wh%69sper", 200, "whisper"),
            ("llama3", 200, "chat"),
            ("org%2Fnone", 404, "org/none"),
        ):
            for _ in range(2):
                answer = await found.live.client.get(path.format(id_))
                assert (answer.status_code, text in answer.text) == (status, True)


async def test_name_without_a_tag_finds_the_latest_of_the_model(gateway_for: GatewayFor) -> None:
    async with fleet(gateway_for, "stickiness", "backpressure") as found:
        for _ in range(2):
            assert await found.post("/v1/x", json={"model": "llama3"}) == "chat"
            assert await found.post("/v1/x", json={"model": "phi"}) == "chat"  # its own name
            assert await found.post("/v1/x", json={"model": "phi:latest"}) == "whisper"
        for unknown in ("llama3:8b", "llama", "whisper:latest"):
            answer = await found.live.client.post("/v1/x", json={"model": unknown})
            assert answer.status_code == 404
        assert b'"llama3"' in found.chat.requests[0]


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({"files": MODEL | SMALL}, 200),
        ({"files": {"model": (None, "chat")}}, 403),
        ({"files": SMALL}, 403),
        ({"data": {"model": "whisper"}}, 200),
        ({"data": {"model": "chat"}}, 403),
        ({"json": {"model": "whisper"}}, 200),
        ({"json": {"model": "whisper"}, "params": {"model": "chat"}}, 403),
        ({"json": {}, "params": [("model", "whisper"), ("model", "chat")]}, 403),
        (
            {
                "content": b'{"model":"chat","z":"&model=whisper&"}',
                "headers": {"content-type": "application/x-www-form-urlencoded"},
            },
            403,
        ),
        (
            {
                "content": b'{"model":"whisper","z":"&model=chat&"}',
                "headers": {"content-type": "application/x-www-form-urlencoded"},
            },
            403,
        ),
        (
            {
                "content": b" " * 70 + b'{"model":"whisper","z":"&model=chat&"}',
                "headers": {"content-type": "application/x-www-form-urlencoded"},
            },
            403,
        ),
        (
            {
                "content": b'\xef\xbb\xbf{"=":1,"model":"chat","z":"&model=whisper&="}',
                "headers": {"content-type": "application/x-www-form-urlencoded"},
            },
            403,
        ),
    ],
)
async def test_key_bound_to_models_calls_no_others_by_a_form_or_a_query(
    gateway_for: GatewayFor, asked: dict[str, Any], status: int
) -> None:
    async with fleet(gateway_for, Bound) as found:
        answer = await found.live.client.post(SPEECH, **asked)
        assert answer.status_code == status, answer.text


async def test_key_bound_to_models_gets_no_other_by_the_query_of_a_get(
    gateway_for: GatewayFor,
) -> None:
    async with fleet(gateway_for, Bound) as found:
        for query, status in (("model=whisper", 200), ("model=chat", 403), ("", 200)):
            answer = await found.live.client.get(f"/v1/realtime?{query}")
            assert answer.status_code == status


async def test_usage_of_a_form_is_that_of_its_model_and_agrees_with_the_trace(
    gateway_for: GatewayFor,
) -> None:
    async with fleet(gateway_for, "sessions", "trace_capture", "usage") as found:
        await found.post(files=MODEL | SMALL)
        [usage] = (await found.live.client.get("/monitor/key_usage")).json()["data"]
        assert usage["model"] == "whisper"
