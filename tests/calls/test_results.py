"""One judgement of each call, shared by its trace, its bill, the breaker, metrics and the log."""

import json
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from support.callers.raw_client import RawClient, head_of
from support.callers.scraping import scrape
from support.gateways.capturing import capturing, chat
from support.plugins.recording_plugin import until
from support.workers.failing_on_demand import ask, breaker, state_of

from gateway import Trace
from gateway.calls import cancel
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

CHAT = "/v1/chat/completions"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
PROMPT = {"prompt_token_ids": [7, 8, 9], "system_fingerprint": "fp"}
USAGE = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}, **PROMPT}
DEAD = {"error": {"message": "the engine died", "type": "InternalServerError", "code": 500}}
LEAVES = "the caller leaves now"
HOLDS = "the worker says no more"

Script = Sequence[bytes | str]


def token(number: int, finish: str | None = None, index: int = 0) -> bytes:
    logprobs = {"content": [{"token": "a", "logprob": -1.0, "bytes": [97], "top_logprobs": []}]}
    choice = {
        "index": index,
        "delta": {"content": "a"},
        "token_ids": [number],
        "logprobs": logprobs,
        "finish_reason": finish,
    }
    return sse({"choices": [choice], **PROMPT})


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Books:
    """A gateway with everything that records a call, before one worker that follows a script."""

    def __init__(self, live: Live, folder: Path) -> None:
        self.live = live
        self._log = folder / "access.log"

    async def call(
        self, script: Script, leaves_at: bytes = b"\n\n", path: str = CHAT, n: int = 1
    ) -> None:
        """Make a call; if the script has LEAVES, the caller leaves once it has read `leaves_at`."""
        # If it were the gateway that asks for the usage, the last event would wait for it.
        options = {"include_usage": True}
        body = msgspec.json.encode(chat(stream=True, stream_options=options, n=n))
        lines = [(b"content-length", b"%d" % len(body)), (b"connection", b"close")]
        async with RawClient(*self.live.server.address) as client:
            await client.send(head_of("POST", "/sessions/s" + path, lines) + body)
            if LEAVES in script:
                await client.reader.readuntil(leaves_at)
            else:
                await client.reader.read()
        await until(lambda: not self.live.gateway.proxy.in_flight)

    async def results(self) -> set[str]:
        """What each of the books says about the one call; they must all say the same."""
        await until(lambda: self._log.stat().st_size > 0)
        found = {(await self.trace()).delivery.result or "", self.logged()}
        row = (await self.live.client.get("/monitor/key_usage")).json()["data"][0]
        for name, column in (("success", "successes"), ("error", "errors")):
            assert row[column] == (found == {name}), row
        metrics = await scrape(self.live)
        return found | metrics.values_of("result")

    async def trace(self) -> Trace:
        answer = await self.live.client.get("/sessions/s/traces")
        [trace] = msgspec.json.decode(answer.content, type=list[Trace])
        return trace

    async def used(self) -> tuple[int, int, int]:
        row = (await self.live.client.get("/monitor/key_usage")).json()["data"][0]
        return row["prompt_tokens"], row["completion_tokens"], row["counted"]

    def logged(self) -> str:
        [line] = self._log.read_text().splitlines()
        return str(json.loads(line).get("result", "success"))


CASES: dict[str, tuple[str, str, Script]] = {
    "whole": ("success", "", [token(1), token(2, "stop"), sse(USAGE) + DONE, END]),
    "without [DONE]": ("success", "", [token(1), token(2, "stop"), sse(USAGE), END]),
    "broken off after the last finish reason": (
        "success",
        "",
        [token(1), token(2, "stop"), sse(USAGE)],
    ),
    "left at the finish reason": (
        "success",
        "",
        [token(1), token(2, "stop"), LEAVES, sse(USAGE) + DONE, END],
    ),
    "left before it": ("caller_gone", "caller_gone", [token(1), LEAVES, HOLDS]),
    "[DONE] without a finish reason": (
        "error",
        "unfinished",
        [token(1), token(2), sse(USAGE) + DONE, END],
    ),
    "broken off": ("error", "worker_broke_off", [token(1), token(2)]),
    "engine's error": ("error", "error_event", [token(1), sse(DEAD) + DONE, END]),
    "an error by the name of its event": (
        "error",
        "error_event",
        [token(1, "stop"), b"event: error\ndata: died\n\n" + sse(USAGE) + DONE, END],
    ),
    "left at the error": ("error", "error_event", [token(1), sse(DEAD), LEAVES, HOLDS]),
    "aborted": ("aborted", "aborted", [token(1), token(2, "abort"), sse(USAGE) + DONE, END]),
}


LEAVE_AT = {"success": b'"stop"', "error_event": b"died"}


def has_left(live: Live) -> bool:
    """Whether the gateway knows that the caller of its only call has left."""
    return all(one.cancel_scope.caller_left for one in live.gateway.proxy.in_flight)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_result_is_the_same_in_all_books(
    case: tuple[str, str, Script], gateway_for: GatewayFor, tmp_path: Path
) -> None:
    result, reason, script = case

    async def play(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.write(HEAD)
        for step in script:
            if step == HOLDS:
                await connection.wait_closed()
            elif step == LEAVES:
                await until(lambda: has_left(live))
            elif isinstance(step, bytes):
                await connection.write(step if step == END else chunk(step))

    async with ScriptedWorker(play) as worker:
        log = entry("access_log", path=str(tmp_path / "access.log"))
        plugins = ("usage", "metrics", log)
        live = await capturing(gateway_for, tmp_path, *plugins, workers=(worker.url,))
        books = Books(live, tmp_path)
        await books.call(script, LEAVE_AT.get(reason or result, b"\n\n"))
        assert await books.results() == {result}
        trace = await books.trace()
        assert "".join(trace.reasons[:1]) == reason
        if result == "success":
            assert (trace.verdict, await books.used()) == ("COMPLETE", (3, 2, 0))


async def test_caller_of_responses_that_leaves_at_the_end_has_a_success(
    gateway_for: GatewayFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker never ends its stream: what is missing then is waited for, but not for long."""
    monkeypatch.setattr(cancel, "MAX_LINGER", 0.02)
    said = {"object": "response", "status": "completed", "id": "r"}
    usage = {"input_tokens": 3, "output_tokens": 2}
    completed = {"type": "response.completed", "response": {**said, "usage": usage}}

    async def play(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.write(HEAD + chunk(b"event: response.completed\n" + sse(completed)))
        await connection.wait_closed()

    async with ScriptedWorker(play) as worker:
        log = entry("access_log", path=str(tmp_path / "access.log"))
        live = await capturing(
            gateway_for, tmp_path, "usage", "metrics", log, workers=(worker.url,)
        )
        books = Books(live, tmp_path)
        await books.call([LEAVES], b"completed", path="/v1/responses")
        assert await books.results() == {"success"}
        assert await books.used() == (3, 2, 0)
        assert "caller_gone" not in (await books.trace()).reasons
        assert worker.connections_open == 0, "the worker is not kept for nobody"


@pytest.mark.parametrize(
    "answer",
    [
        HEAD + chunk(token(1)) + chunk(sse(DEAD)) + chunk(DONE) + END,
        HEAD + chunk(token(1)) + chunk(sse(DEAD)) + END,
        answer_of(msgspec.json.encode(DEAD)),
    ],
    ids=["stream", "stream without [DONE]", "plain"],
)
async def test_breaker_alone_learns_of_an_engine_s_error(
    answer: bytes, gateway_for: GatewayFor
) -> None:
    async with ScriptedWorker(answer) as worker:
        live = await gateway_for(breaker(), workers=(worker.url,))
        for _ in range(2):
            assert (await ask(live)).status_code == 200
        assert state_of(live) == "ejected"
        assert live.gateway.workers.all[0].last_error == "engine_error"


async def test_breaker_spares_a_worker_whose_request_was_at_fault(gateway_for: GatewayFor) -> None:
    too_long = {"error": {"message": "the prompt is too long", "code": 400}}
    async with ScriptedWorker(HEAD + chunk(sse(too_long)) + END) as worker:
        live = await gateway_for(breaker(), workers=(worker.url,))
        for _ in range(3):
            await ask(live)
        assert state_of(live) == "up"


async def test_errors_of_engines_have_a_code_in_metrics(gateway_for: GatewayFor) -> None:
    async with ScriptedWorker(answer_of(msgspec.json.encode(DEAD))) as worker:
        live = await gateway_for("metrics", workers=(worker.url,))
        await ask(live)
        metrics = await scrape(live)
    assert metrics.value("gateway_errors_total", code="engine_error") == 1
    assert metrics.value("gateway_results_total", result="error") == 1
