"""Where the time of a call went, held to workers and plugins whose delays are known."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Sequence

import httpx
import pytest
from support.plugins.hook_probes import Keys
from support.plugins.recording_plugin import Watcher

from gateway import Answer, Call, Outcome, Worker, hookimpl
from gateway.config import Failover
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

DELAY, LEAST = 0.03, 0.025
CHAT = "/v1/chat/completions"
OWN = b'server-timing: prefill;dur=3, decode;desc="a, b";dur=4\r\n'
BODY = b'{"choices": [{"index": 0, "message": {"content": "Hi"}}]}'
PLAIN = answer_of(BODY)
STREAM = answer_of(sse({"choices": []}) + DONE, content_type="text/event-stream")
REFUSED = answer_of(b"{}", status="503 Service Unavailable")


class Slow:
    """Waits for DELAY in the hook that the header `x-slow` of a call names."""

    def _wait(self, call: Call, hook: str) -> Awaitable[None] | None:
        return asyncio.sleep(DELAY) if call.header("x-slow") == hook else None

    @hookimpl
    def admit(self, call: Call) -> Awaitable[None] | None:
        return self._wait(call, "admit")

    @hookimpl
    async def filter_workers(self, call: Call, workers: Sequence[Worker]) -> Sequence[Worker]:
        await (self._wait(call, "filter_workers") or asyncio.sleep(0))
        return workers

    @hookimpl
    def prepare(self, call: Call) -> Awaitable[None] | None:
        return self._wait(call, "prepare")

    @hookimpl
    async def handle(self, call: Call) -> Answer | None:
        await (self._wait(call, "handle") or asyncio.sleep(0))
        return Answer(body=b"{}") if call.header("x-slow") == "handle" else None

    @hookimpl
    def call_finished(self, call: Call, outcome: Outcome) -> Awaitable[None] | None:
        return self._wait(call, "call_finished")


class Rewriting:
    """Makes the gateway hold plain responses until they are whole."""

    @hookimpl
    def prepare(self, call: Call) -> Awaitable[None]:
        return call.inject("token_ids")


async def slowly(connection: ScriptedConnection) -> None:
    while True:
        await connection.read_request()
        await asyncio.sleep(DELAY)
        await connection.write(PLAIN)


def shares_of(answer: httpx.Response) -> dict[str, float]:
    """The gateway's own line, the last one, in seconds."""
    members = answer.headers.get_list("server-timing")[-1].split(", ")
    pairs = [member.split(";dur=") for member in members]
    return {name: float(value) / 1_000 for name, value in pairs}


async def timed(live: Live, slow: str = "", **more: object) -> tuple[dict[str, float], float]:
    """Return the shares of a call, and the seconds that its caller waited for the head."""
    began = time.monotonic()
    answer = await live.client.post(CHAT, json={"model": "m", **more}, headers={"x-slow": slow})
    elapsed = time.monotonic() - began
    shares = shares_of(answer)
    assert all(share >= 0 for share in shares.values())
    assert sum(shares.values()) <= elapsed + 0.001, "no time is counted twice"
    return shares, elapsed


@pytest.mark.parametrize(
    ("hook", "share"),
    [
        ("admit", "queue"),
        ("filter_workers", "queue"),
        ("prepare", "gateway"),
        ("call_finished", "gateway"),
        ("handle", "gateway"),
        ("", "worker"),
    ],
)
async def test_each_delay_is_in_its_share_alone(
    gateway_for: GatewayFor, hook: str, share: str
) -> None:
    async with ScriptedWorker(PLAIN if hook else slowly) as worker:
        live = await gateway_for(Slow, workers=[worker.url])
        await timed(live, hook)  # opens the connection
        shares, elapsed = await timed(live, hook)
    assert shares[share] >= LEAST
    others = sum(seconds for name, seconds in shares.items() if name != share)
    assert others <= elapsed - LEAST
    assert list(shares) == (
        ["queue", "gateway"] if hook == "handle" else ["queue", "connect", "worker", "gateway"]
    )


async def test_opening_a_connection_is_a_share_of_its_own(gateway_for: GatewayFor) -> None:
    async with ScriptedWorker(PLAIN) as worker:
        live = await gateway_for(workers=[worker.url])
        first, second = [(await timed(live))[0]["connect"] for _ in range(2)]
    assert first > 0 == second


async def test_failed_attempts_are_a_share_of_their_own(gateway_for: GatewayFor) -> None:
    async def refuse(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await asyncio.sleep(DELAY)
        await connection.write(REFUSED)

    async with ScriptedWorker(refuse) as bad, ScriptedWorker(PLAIN) as good:
        again = Failover(rerun=True, budget=1.0, backoff=0.001)
        live = await gateway_for(workers=[bad.url, good.url], failover=again)
        while not bad.requests:
            shares, elapsed = await timed(live)
    assert shares["failed"] >= LEAST
    assert shares["queue"] > 0, "the pause before the second attempt"
    assert shares["worker"] + shares["gateway"] <= elapsed - LEAST


async def test_rest_of_a_response_that_is_held_is_the_workers(gateway_for: GatewayFor) -> None:
    async def in_parts(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.write(PLAIN[:-10])
        await asyncio.sleep(DELAY)
        await connection.write(PLAIN[-10:])

    async with ScriptedWorker(in_parts) as worker:
        live = await gateway_for(Rewriting, workers=[worker.url])
        shares, _ = await timed(live)
    assert shares["worker"] >= LEAST


@pytest.mark.parametrize("framing", [{"content-length": "14"}, {}], ids=["read", "streamed"])
async def test_slow_upload_is_nobodys_share(
    gateway_for: GatewayFor, framing: dict[str, str]
) -> None:
    async def upload() -> AsyncIterator[bytes]:
        yield b'{"model": '
        await asyncio.sleep(DELAY)
        yield b'"m"}'

    async with ScriptedWorker(PLAIN) as worker:
        live = await gateway_for(workers=[worker.url])
        began = time.monotonic()
        answer = await live.client.post(
            CHAT, content=upload(), headers={"content-type": "application/json", **framing}
        )
        elapsed = time.monotonic() - began
    shares = shares_of(answer)
    assert shares["worker"] + shares["gateway"] <= elapsed - LEAST


async def test_outcome_has_the_same_figures(gateway_for: GatewayFor) -> None:
    async with ScriptedWorker(PLAIN) as worker:
        live = await gateway_for(Slow, Watcher, workers=[worker.url], server_timing="none")
        answer = await live.client.post(CHAT, json={}, headers={"x-slow": "admit"})
        outcome = await live.plugin(Watcher).outcome()
    assert "server-timing" not in answer.headers
    assert outcome.queue >= LEAST
    assert outcome.overhead is not None
    assert 0 < outcome.overhead < outcome.duration


@pytest.mark.parametrize("setting", ["none", "header"])
async def test_own_line_of_the_worker_is_kept(gateway_for: GatewayFor, setting: str) -> None:
    head, _, body = PLAIN.partition(b"\r\n")
    async with ScriptedWorker(head + b"\r\n" + OWN + body) as worker:
        live = await gateway_for(workers=[worker.url], server_timing=setting)
        answer = await live.client.post(CHAT, json={})
    lines = answer.headers.get_list("server-timing")
    assert lines[0] == 'prefill;dur=3, decode;desc="a, b";dur=4'
    assert len(lines) == (1 if setting == "none" else 2)


async def test_strangers_are_told_nothing_and_known_callers_of_errors_too(
    gateway_for: GatewayFor,
) -> None:
    async with ScriptedWorker(b"") as gone:
        pass
    live = await gateway_for(entry(Keys, key="a"), workers=[gone.url])
    answers = [
        await live.client.post(CHAT, json={}, headers={"authorization": key})
        for key in ("b", "revoked", "a")
    ]
    assert [answer.status_code for answer in answers] == [401, 401, 502]
    assert ["server-timing" in answer.headers for answer in answers] == [False, False, True]
    assert list(shares_of(answers[2])) == ["queue", "gateway", "failed"]


@pytest.mark.usefixtures("kernel_of_test")
async def test_comment_ends_a_stream_and_nothing_else(gateway_for: GatewayFor) -> None:
    async with ScriptedWorker(STREAM) as worker, ScriptedWorker(PLAIN) as plain:
        live = await gateway_for(workers=[worker.url], server_timing="comment")
        other = await gateway_for(workers=[plain.url], server_timing="comment")
        stream = await live.client.post(CHAT, json={"stream": True})
        answer = await other.client.post(CHAT, json={})
    events = sse({"choices": []}) + DONE
    assert stream.content.startswith(events)
    comment = stream.content[len(events) :].decode()
    assert comment.startswith(": server-timing total;dur=")
    assert comment.endswith("\n\n")
    parts = [part.split(";dur=") for part in comment[len(": server-timing ") :].strip().split(", ")]
    figures = {name: float(value) for name, value in parts}
    assert list(figures) == ["total", "worker", "commit"]
    assert figures["total"] >= figures["worker"] + figures["commit"]
    assert answer.content == BODY


class Commenting:
    """Sends a comment before the response begins."""

    @hookimpl
    def prepare(self, call: Call) -> None:
        call.keep_alive()


async def test_stream_that_begins_with_a_comment_has_its_overhead_but_no_line(
    gateway_for: GatewayFor,
) -> None:
    async with ScriptedWorker(STREAM) as worker:
        plugins = Commenting, Slow, Watcher
        live = await gateway_for(*plugins, workers=[worker.url], server_timing="comment")
        answer = await live.client.post(CHAT, json={"stream": True}, headers={"x-slow": "prepare"})
        outcome = await live.plugin(Watcher).outcome()
    assert "server-timing" not in answer.headers
    assert answer.text.splitlines()[-2].startswith(": server-timing total;dur=")
    assert outcome.overhead is not None
    assert LEAST < outcome.overhead < outcome.duration


async def test_no_comment_is_translated(gateway_for: GatewayFor) -> None:
    live = await gateway_for("sessions", "translate", server_timing="comment")
    asked = {"model": "sim", "max_tokens": 2, "messages": [{"role": "user", "content": "Hi"}]}
    path = "/sessions/s/v1/messages"
    answer = await live.client.post(path, json={**asked, "stream": True})
    assert answer.text.endswith('event: message_stop\ndata: {"type":"message_stop"}\n\n')
    assert "server-timing" not in answer.text
    assert "worker" in shares_of(answer)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (sse({"choices": []}) + b"data: [DO", {}),
        (b"\x1f\x8b\x08", {"content-encoding": "gzip"}),
    ],
)
async def test_no_comment_follows_what_is_no_whole_plain_stream(
    gateway_for: GatewayFor, body: bytes, headers: dict[str, str]
) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n{lines}".encode()
    async with ScriptedWorker(head + b"content-length: %d\r\n\r\n" % len(body) + body) as worker:
        live = await gateway_for(workers=[worker.url], server_timing="comment")
        async with live.client.stream("POST", CHAT, json={"stream": True}) as answer:
            found = b"".join([chunk async for chunk in answer.aiter_raw()])
    assert found == body
