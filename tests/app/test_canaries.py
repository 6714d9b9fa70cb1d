"""Secrets and prompts planted everywhere, and looked for wherever the gateway says something."""

import io
import json
import logging
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from support.callers.raw_client import CutShort, Headers, RawAnswer, RawClient
from support.plugins.breaking_hooks import HOOKS, Clumsy

from gateway.config import PluginEntry, Worker
from gateway.telemetry.logs import Handler
from gateway.testing import (
    DONE,
    GatewayFor,
    Live,
    ScriptedConnection,
    ScriptedWorker,
    answer_of,
    entry,
    sse,
)

CANARY = re.compile(r"canary-[a-z]+")
CHAT = "/v1/chat/completions"
KEY = b"canary-key"
CALLERS: Headers = [
    (b"authorization", b"Bearer " + KEY),
    (b"x-api-key", KEY),
    (b"api-key", KEY),
    (b"x-session-id", b"canary-session"),
]
BODY = {
    "model": "sim",
    "messages": [
        {"role": "system", "content": "canary-prompt"},
        {"role": "assistant", "tool_calls": [{"function": {"arguments": "canary-arguments"}}]},
    ],
}
BODIES = [
    b"canary-body",
    b'{"messages": canary-body',
    b'["canary-body"]',
    b'{"model": "sim", "messages": "canary-body"}',
    b'{"model": "sim", "messages": [{"role": ["canary-body"], "content": {"a": "canary-body"}}]}',
    b'{"model": "sim", "stream": "canary-body", "max_tokens": "canary-body", "user": 5}',
    b'{"model": "sim", "n": "canary-body", "prompt": "\xff canary-body", "a": "\\ud800"}',
]

TOOLS = [{"id": "t", "function": {"name": "f", "arguments": "canary-arguments"}}]
MESSAGE = {"role": "assistant", "content": "canary-answer", "tool_calls": TOOLS}
DELTA = sse({"choices": [{"index": 0, "delta": {"content": "canary-answer"}}]})
EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"

ANSWERS = {
    "plain": answer_of(json.dumps({"choices": [{"index": 0, "message": MESSAGE}]}).encode()),
    "stream": EVENTS + b"connection: close\r\n\r\n" + DELTA + DONE,
    "error": answer_of(b'{"error": {"message": "canary-answer"}}', status="400 Bad Request"),
    "trouble": answer_of(b'{"error": {"message": "canary-answer"}}', status="500 Oh"),
    "not HTTP": b"canary-answer\r\n\r\n",
    "status": b"HTTP/1.1 canary-answer\r\n\r\n",
    "header": b"HTTP/1.1 200 OK\r\ncanary-answer\r\n\r\n",
    "length": b"HTTP/1.1 200 OK\r\ncontent-length: canary-answer\r\n\r\n",
    "headers": b"HTTP/1.1 200 OK\r\nx: " + b"canary-answer" * 6000 + b"\r\n\r\n",
    "chunk": JSON + b"transfer-encoding: chunked\r\n\r\ncanary-answer\r\n",
    "coding": JSON + b"transfer-encoding: canary-answer\r\n\r\n",
    "encoding": JSON + b"content-encoding: gzip\r\ncontent-length: 13\r\n\r\ncanary-answer",
    "not JSON": answer_of(b'{"choices": canary-answer'),
    "not UTF-8": answer_of(b'{"choices": "canary-answer \xff"}'),
    "types": answer_of(b'{"choices": [{"message": {"tool_calls": "canary-answer"}}]}'),
    "usage": answer_of(b'{"choices": [], "usage": {"prompt_tokens": "canary-answer"}}'),
    "event": EVENTS + b"connection: close\r\n\r\ndata: {canary-answer\n\n" + DONE,
    "cut": JSON + b"content-length: 100\r\n\r\n" + b'{"choices": "canary-answer',
    "cut stream": EVENTS + b"content-length: 9999\r\n\r\n" + DELTA + b"data: {canary-answer",
}


def all_plugins(folder: Path) -> list[PluginEntry]:
    """Every plugin there is; a new one is a line here."""
    keys = {"keys": [{"id": "us", "token": KEY.decode(), "scopes": SCOPES}]}
    file = folder / "keys.json"
    file.touch(0o600)
    file.write_text(json.dumps(keys))
    return [
        entry(Clumsy),
        entry("auth", keys_file=str(file)),
        entry("limits"),
        entry("usage"),
        entry("openai_models"),
        entry("sessions"),
        entry("stickiness"),
        entry("circuit_breaker"),
        entry("backpressure"),
        entry("trace_capture"),
        entry("metrics"),
        entry("access_log", path=str(folder / "access.log")),
    ]


UNNAMED = {"answer", "rows", "write", "written"}
"""What is no hook."""

SCOPES = ["realtime", "sessions", "sessions:all", "monitor", "admin"]


class Log:
    """All that is logged, formatted as it would be; `debug` is what it must not be like."""

    def __init__(self) -> None:
        self.text, self.json, self.debug = io.StringIO(), io.StringIO(), io.StringIO()
        self.handlers = (
            Handler(self.text, written="text"),
            Handler(self.json, written="json"),
            Handler(self.debug, "debug", "json"),
        )


@pytest.fixture
def log() -> Iterator[Log]:
    made, root = Log(), logging.getLogger()
    before = root.level
    root.setLevel("INFO")
    for handler in made.handlers:
        root.addHandler(handler)
    yield made
    for handler in made.handlers:
        root.removeHandler(handler)
    root.setLevel(before)


class Caller:
    """Asks, and keeps what the gateway said in its own name."""

    def __init__(self, live: Live) -> None:
        self._address = live.server.address
        self.answers: list[RawAnswer] = []

    async def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> RawAnswer:
        own = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        async with RawClient(*self._address) as client:
            try:
                answer = await client.ask(method, path, [*CALLERS, *own], body)
            except CutShort as cut:
                answer = cut.answer
        self.answers.append(answer)
        return answer

    async def call(self, body: bytes = json.dumps(BODY).encode(), **headers: str) -> RawAnswer:
        return await self.ask("POST", CHAT, body, **headers)

    def heard(self) -> str:
        return "".join(map(_own_words, self.answers))


def _own_words(answer: RawAnswer) -> str:
    """Not a worker's: its answers pass as they are, but for the event that ends a broken one."""
    body = answer.body.decode("latin-1")
    return body.partition("event: error")[2] if answer.value(b"x-gateway-worker") else body


async def _as_told(connection: ScriptedConnection) -> None:
    """Answers as the call's `x-answer` says, and hangs up."""
    request = await connection.read_request()
    found = re.search(rb"x-answer: ([^\r]+)", request)
    name = found[1].decode() if found else "plain"
    await connection.write(ANSWERS[name])


@pytest.fixture
async def caller(gateway_for: GatewayFor, tmp_path: Path) -> AsyncIterator[Caller]:
    async with ScriptedWorker(_as_told) as worker:
        settings = Worker(url=worker.url, headers={"authorization": "Bearer canary-worker"})
        live = await gateway_for(*all_plugins(tmp_path), workers=[settings], stream_errors="event")
        yield Caller(live)


def planted(text: str) -> set[str]:
    return set(CANARY.findall(text))


async def check(caller: Caller, log: Log, *shown: str) -> None:
    """Nothing of it is anywhere; `shown` would be in the log, were everything to be seen."""
    for path in ("/metrics", "/health", "/health/workers", "/admin/workers"):
        assert planted((await caller.ask("GET", path)).body.decode()) == set(), path
    assert planted(caller.heard()) == set()
    assert planted(log.text.getvalue()) == set()
    assert planted(log.json.getvalue()) == set()
    assert planted(log.debug.getvalue()) >= set(shown), "what is looked for was there"


async def test_gateway_leaks_no_caller_secret_or_prompt_to_logs_or_responses(
    caller: Caller, log: Log, tmp_path: Path
) -> None:
    for body in BODIES:
        await caller.call(body)
    for hook in HOOKS:
        for answer in ("plain", "stream"):
            await caller.call(x_break=hook, x_answer=answer)
    await caller.ask("POST", CHAT, BODIES[0], authorization="Bearer canary-guess")
    broken = set(re.findall(r"broke in (?:observer\.)?(\w+)", log.text.getvalue()))
    assert broken >= {*HOOKS} - UNNAMED
    await check(caller, log, "canary-key", "canary-session", "canary-prompt", "canary-arguments")
    lines = (tmp_path / "access.log").read_text()
    assert planted(lines) == {"canary-session"}, "that is what this log is for"


async def test_gateway_leaks_no_worker_response_to_logs_or_its_own_errors(
    caller: Caller, log: Log
) -> None:
    for answer in ANSWERS:
        await caller.call(x_answer=answer)
        await caller.call(x_answer=answer, x_break="data")
        await caller.call(x_answer=answer, x_break="started")
    await check(caller, log, "canary-answer")


async def test_control_routes_leak_no_request_body_to_logs_or_errors(
    caller: Caller, log: Log
) -> None:
    await caller.call()
    for path in ("/clumsy", "/sessions", "/traces/query", "/admin/weight_version"):
        for body in (*BODIES, b'{"a": "canary-body"}'):
            await caller.ask("POST", path, body)
    await check(caller, log, "canary-body", "canary-prompt", "canary-worker")
