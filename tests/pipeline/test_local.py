"""A function in place of inference servers."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
import openai
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionUserMessageParam
from support.plugins.recording_plugin import Watcher
from support.records.vllm_recordings import load

from gateway import BadRequest, Call, Delta, Gateway, create_app, hookimpl
from gateway.config import Config, StorageSettings, Timeouts
from gateway.pipeline.local import LocalHandler
from gateway.testing import Live, entry, live
from gateway.wire.apis.openai_events import as_events
from gateway.wire.apis.registry import dialect_of
from gateway.wire.injection import INJECTIONS
from gateway.wire.sse import Splitter

HELLO: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "Hello"}]
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
LOGPROBS = {
    "content": [{"token": t, "logprob": -0.5, "bytes": [104], "top_logprobs": []} for t in "hi"]
}
TOOL = {"id": "t1", "type": "function", "function": {"name": "now", "arguments": '{"zone":"UTC"}'}}


def choice(index: int = 0, **message: object) -> dict[str, Any]:
    return {
        "index": index,
        "message": {"role": "assistant", **message},
        "logprobs": LOGPROBS,
        "finish_reason": "tool_calls" if message.get("tool_calls") else "stop",
        "token_ids": [7, 8],
    }


def answer(*choices: dict[str, Any]) -> dict[str, Any]:
    return {"choices": choices, "prompt_token_ids": [1, 2, 3], "usage": USAGE}


class Script:
    """A handler that keeps the bodies it was given; `says` is what it answers, or raises."""

    def __init__(self, says: object) -> None:
        self.says = says
        self.bodies: list[dict[str, Any]] = []
        self.threads: list[int] = []

    def __call__(self, body: dict[str, Any]) -> dict[str, Any]:
        self.bodies.append(body)
        self.threads.append(threading.get_ident())
        if isinstance(self.says, BaseException):
            raise self.says
        return self.says  # type: ignore[return-value]


class Injecting:
    """Injects everything and keeps the deltas."""

    def __init__(self) -> None:
        self.deltas: list[Delta] = []

    @hookimpl
    async def prepare(self, call: Call) -> None:
        await call.inject(*INJECTIONS)

    @hookimpl
    def observe(self, call: Call) -> object:
        return self

    def delta(self, delta: Delta) -> None:
        self.deltas.append(delta)


@asynccontextmanager
async def serving(handler: object, *plugins: type, **settings: Any) -> AsyncIterator[Live]:
    config = Config(
        plugins=tuple(entry(plugin) for plugin in (Watcher, *plugins)),
        storage=StorageSettings(path=":memory:"),
        **settings,
    )
    async with live(Gateway(config, local_handler=handler)) as running:  # type: ignore[arg-type]
        yield running


@asynccontextmanager
async def openai_for(running: Live) -> AsyncIterator[AsyncOpenAI]:
    url = running.url + "/v1"
    async with AsyncOpenAI(base_url=url, api_key="unused", max_retries=0) as client:
        yield client


async def test_local_handler_returns_a_plain_response() -> None:
    script = Script(answer(choice(content="hi")))
    async with serving(script) as running, openai_for(running) as client:
        said = await client.chat.completions.create(model="m", messages=HELLO)
        [attempt] = running.plugin(Watcher).attempts

    assert said.choices[0].message.content == "hi"
    assert (said.object, said.model, said.id[:9]) == ("chat.completion", "m", "chatcmpl-")
    assert said.usage is not None
    assert said.usage.total_tokens == 5
    assert script.bodies == [{"model": "m", "messages": HELLO}]
    assert script.threads != [threading.get_ident()]
    assert (attempt.worker.id, attempt.status, attempt.error) == ("local", 200, None)
    assert attempt.first_byte is not None


async def test_local_handler_streams_tool_calls_and_choices() -> None:
    said = choice(content="hi", tool_calls=[], reasoning=None)
    says = answer(said, choice(1, content=None, tool_calls=[TOOL]))
    async with serving(Script(says)) as running, openai_for(running) as client:
        stream = await client.chat.completions.create(
            model="m", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]

    deltas = [one for chunk in chunks for one in chunk.choices]
    assert {chunk.id for chunk in chunks} == {chunks[0].id} != {""}
    assert [one.delta.role for one in deltas] == ["assistant", None, None] * 2
    assert "".join(one.delta.content or "" for one in deltas if one.index == 0) == "hi"
    assert all(one.delta.tool_calls is None for one in deltas if one.index == 0)
    [call] = [tool for one in deltas for tool in one.delta.tool_calls or ()]
    assert (call.index, call.id, call.function and call.function.arguments) == (
        0,
        "t1",
        '{"zone":"UTC"}',
    )
    assert [(one.index, one.finish_reason) for one in deltas if one.finish_reason] == [
        (0, "stop"),
        (1, "tool_calls"),
    ]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_injected_fields_reach_local_handler_and_observers_not_caller(
    stream: bool,
) -> None:
    script = Script(answer(choice(content="hi")))
    body = {"model": "m", "messages": HELLO, "stream": stream}
    async with serving(script, Injecting) as running:
        said = await running.client.post("/v1/chat/completions", json=body)
        deltas = running.plugin(Injecting).deltas

    asked = {"return_token_ids": True, "logprobs": True}
    options = {"stream_options": {"include_usage": True}} if stream else {}
    assert script.bodies == [{**body, **asked, **options}]
    choices = [one for delta in deltas for one in delta.choices]
    assert [token for one in choices for token in one.token_ids] == [7, 8]
    assert [value for one in choices for value in one.logprobs] == [-0.5, -0.5]
    assert [one.prompt_token_ids for one in choices if one.prompt_token_ids] == [[1, 2, 3]]
    assert [delta.usage and delta.usage.total_tokens for delta in deltas if delta.usage] == [5]
    assert b"hi" in said.content
    for part in (b"[7,8]", b"-0.5", b"[1,2,3]"):
        assert part not in said.content
    assert (b"usage" in said.content) == (not stream)


async def test_local_handler_streams_completions() -> None:
    one = {"index": 0, "text": "hi", "token_ids": [7], "prompt_token_ids": [1]}
    one = {**one, "logprobs": None, "finish_reason": "length"}
    script = Script({"choices": [one], "usage": USAGE})
    async with serving(script) as running, openai_for(running) as client:
        stream = await client.completions.create(model="m", prompt="x", stream=True)
        chunks = [chunk async for chunk in stream]

    assert [(chunk.choices[0].text, chunk.choices[0].finish_reason) for chunk in chunks] == [
        ("hi", None),
        ("", "length"),
    ]


async def waiting(body: dict[str, Any]) -> dict[str, Any]:
    await asyncio.sleep(0)
    return answer(choice(content=body["model"]))


class Waiting:
    async def __call__(self, body: dict[str, Any]) -> dict[str, Any]:
        return await waiting(body)


@pytest.mark.parametrize("handler", [waiting, Waiting(), lambda body: waiting(body)])
async def test_local_handler_may_be_async(handler: LocalHandler) -> None:
    async with serving(handler) as running, openai_for(running) as client:
        said = await client.chat.completions.create(model="m", messages=HELLO)

    assert said.choices[0].message.content == "m"


BROKEN: list[object] = [
    RuntimeError("secret"),
    asyncio.CancelledError(),
    "text",
    None,
    {"choices": [{"message": {"content": object()}}]},
]
NO_STREAM: list[object] = [
    {},
    {"choices": None},
    {"choices": [1]},
    {"choices": [{"index": "x"}]},
    {"choices": [{"message": "x"}]},
    {"choices": [{"message": {"tool_calls": 1}}]},
    {"choices": [], "usage": 1},
]


@pytest.mark.parametrize(
    ("says", "stream"),
    [*((says, False) for says in BROKEN), *((says, True) for says in BROKEN + NO_STREAM)],
)
async def test_local_handler_failure_returns_502_and_is_logged(
    says: object, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(Script(says)) as running:
        body = {"model": "m", "messages": HELLO, "stream": stream}
        said = await running.client.post("/v1/chat/completions", json=body)
        [attempt] = running.plugin(Watcher).attempts

    assert (said.status_code, said.json()["error"]["code"]) == (502, "upstream_error")
    assert b"secret" not in said.content
    assert attempt.error is not None
    assert any("the local handler" in record.getMessage() for record in caplog.records)


async def test_local_handler_may_reject_a_call() -> None:
    async with serving(Script(BadRequest("no", param="model"))) as running:
        async with openai_for(running) as client:
            with pytest.raises(openai.BadRequestError, match="no"):
                await client.chat.completions.create(model="m", messages=HELLO)


@pytest.mark.parametrize(("code", "status"), [(429, 429), (None, 500), ("x", 500), (200, 500)])
async def test_local_handler_error_is_forwarded_unchanged(code: object, status: int) -> None:
    says = {"error": {"message": "later", "code": code}}
    async with serving(Script(says)) as running:
        body = {"messages": HELLO, "stream": True}
        said = await running.client.post("/v1/chat/completions", json=body)

    assert (said.status_code, said.json()) == (status, says)


async def test_local_handler_that_rejects_injection_is_retried_without_it() -> None:
    def picky(body: dict[str, Any]) -> dict[str, Any]:
        if "return_token_ids" in body:
            return {"error": {"message": "unknown field return_token_ids", "code": 400}}
        return answer(choice(content="hi"))

    async with serving(picky, Injecting) as running:
        said = await running.client.post("/v1/chat/completions", json={"messages": HELLO})
        attempts = running.plugin(Watcher).attempts

    assert said.status_code == 200
    assert [attempt.status for attempt in attempts] == [400, 200]


async def test_local_handler_answers_models_and_rejects_other_paths() -> None:
    async with serving(Script({})) as running, openai_for(running) as client:
        assert [model.id async for model in client.models.list()] == ["local"]
        missing = await running.client.post("/v1/embeddings", json={})
        broken = await running.client.post("/v1/chat/completions", content=b"{")

    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert (broken.status_code, broken.json()["error"]["code"]) == (400, "invalid_json")


async def test_local_handler_times_out() -> None:
    cancelled = asyncio.Event()

    async def slow(body: dict[str, Any]) -> dict[str, Any]:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    async with serving(slow, timeouts=Timeouts(first_byte=0.05)) as running:
        said = await running.client.post("/v1/chat/completions", json={"messages": HELLO})
        await cancelled.wait()

    assert (said.status_code, said.json()["error"]["code"]) == (504, "upstream_first_byte_timeout")


async def test_local_handler_is_cancelled_if_its_caller_disconnects() -> None:
    began, cancelled = asyncio.Event(), asyncio.Event()

    async def slow(body: dict[str, Any]) -> dict[str, Any]:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    async with serving(slow) as running:
        asking = asyncio.create_task(
            running.client.post("/v1/chat/completions", json={"messages": HELLO})
        )
        await began.wait()
        asking.cancel()
        await cancelled.wait()
        assert (await running.plugin(Watcher).outcome()).caller_gone


async def test_local_handler_works_without_a_server() -> None:
    app = create_app(Config(storage=StorageSettings(path=":memory:")), local_handler=waiting)
    transport = httpx.ASGITransport(app)
    async with app, httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        said = await client.post("/v1/chat/completions", json={"model": "m"})

    assert said.json()["choices"][0]["message"]["content"] == "m"


def told(body: bytes, path: str) -> Iterator[Delta]:
    dialect = dialect_of(path)
    assert dialect is not None
    splitter = Splitter()
    for event in splitter.feed(body) + splitter.close():
        assert event.data is not None
        yield dialect.read_event(event.data)


@pytest.mark.parametrize(
    "exchange",
    [
        exchange
        for exchange in load().values()
        if dialect_of(exchange.path) and exchange.status == 200 and exchange.body[:1] == b"{"
    ],
    ids=lambda exchange: exchange.name,
)
def test_as_events_keeps_the_content_of_a_recorded_response(exchange: Any) -> None:
    dialect = dialect_of(exchange.path)
    assert dialect is not None
    plain = dialect.read_answer(exchange.body)

    deltas = list(
        told(as_events(msgspec.json.decode(exchange.body), dialect, usage=True), exchange.path)
    )

    assert deltas[-1].done
    assert deltas[-2].usage == plain.usage
    for one in plain.choices:
        parts = [part for delta in deltas for part in delta.choices if part.index == one.index]
        assert "".join(part.text for part in parts) == one.text
        assert [token for part in parts for token in part.token_ids] == one.token_ids
        assert [value for part in parts for value in part.logprobs] == one.logprobs
        assert parts[-1].finish_reason == one.finish_reason
        assert parts[-1].stop_reason == one.stop_reason
        prompts = [part.prompt_token_ids for part in parts if part.prompt_token_ids is not None]
        assert prompts == ([] if one.prompt_token_ids is None else [one.prompt_token_ids])
