"""A retry of a call that still runs gets that call's response, over real sockets."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import msgspec
import openai
import pytest
from gateway_plugins.join_retries import JoinRetries
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion
from support.callers.leaving_caller import leave
from support.callers.raw_client import CutShort, RawAnswer, RawClient, head_of
from support.gateways.capturing import CAPTURE, chat
from support.plugins.recording_plugin import Watcher, until
from support.steady import steady
from support.workers.gated_worker import Gated, event

from gateway import Call, Principal, hookimpl
from gateway.config import PluginEntry
from gateway.simulator import Simulator
from gateway.simulator.config import SimulatorConfig
from gateway.testing import GatewayFor, Live, ScriptedConnection, ScriptedWorker, answer_of, entry

CHAT = "/v1/chat/completions"
BODY = json.dumps(chat(stream=True)).encode()
FIRST = {"x-stainless-retry-count": "0"}
AGAIN = {"x-stainless-retry-count": "1"}


class Badges:
    """Takes callers for whom they say they are."""

    @hookimpl
    async def authenticate(self, call: Call) -> Principal:
        return Principal(call.header("authorization") or "nobody", frozenset({"realtime"}))


class Stage(msgspec.Struct):
    live: Live
    worker: ScriptedWorker
    gated: Gated

    @asynccontextmanager
    async def asking(
        self, headers: Mapping[str, str], path: str = CHAT, body: bytes = BODY
    ) -> AsyncIterator[RawClient]:
        async with RawClient(*self.live.server.address) as client:
            lines = [(name.encode(), value.encode()) for name, value in headers.items()]
            length = b"%d" % len(body)
            lines += [(b"content-type", b"application/json"), (b"content-length", length)]
            await client.send(head_of("POST", path, lines) + body)
            yield client

    async def leave_midway(self, headers: Mapping[str, str], path: str = CHAT) -> None:
        """Ask, read the first event, and go away; return when the gateway knows."""
        before = self.alone()
        async with self.asking(headers, path) as client:
            await client.reader.readuntil(b"word1")
            leave(client, reset=False)
        await until(lambda: self.alone() > before)

    def alone(self) -> float:
        """How many calls run although their callers have left."""
        return self.metric("gateway_retries_awaited")

    def metric(self, name: str, **labels: str) -> float:
        samples = self.live.plugin(JoinRetries).samples()
        found = (one for one in samples if one.name == name)
        values = [one.value for one in found if labels.items() <= dict(one.labels).items()]
        return sum(value for value in values if isinstance(value, float | int))

    async def ask(
        self, headers: Mapping[str, str], path: str = CHAT, body: bytes = BODY
    ) -> RawAnswer:
        async with self.asking(headers, path, body) as client:
            return await client.answer("POST")

    def joined(self, by: str) -> float:
        return self.metric("gateway_retries_joined_total", by=by)


@asynccontextmanager
async def staged(
    gateway_for: GatewayFor, gated: Gated | None = None, *more: type, **options: object
) -> AsyncIterator[Stage]:
    gated = gated or Gated()
    async with ScriptedWorker(gated.script) as worker:
        plugins: tuple[str | type | PluginEntry, ...] = (
            Badges,
            "sessions",
            entry(JoinRetries, **options),
            "metrics",
            Watcher,
            *more,
        )
        live = await gateway_for(*plugins, workers=[worker.url])
        yield Stage(live, worker, gated)
        gated.free.set()


async def test_counted_retry_gets_the_whole_stream_of_the_call_that_its_caller_left(
    gateway_for: GatewayFor,
) -> None:
    async with staged(gateway_for) as stage:
        await stage.leave_midway(FIRST)
        async with stage.asking(AGAIN) as client:
            answer = await client.head()
            await client.reader.readuntil(b"word1")  # what had come is there before the rest
            stage.gated.free.set()
            await client.reader.readuntil(b"0\r\n\r\n")
        assert answer.value(b"idempotent-replayed") == b"true"
        assert answer.value(b"x-gateway-joined") not in (None, answer.value(b"x-request-id"))
        assert len(stage.worker.requests) == 1


async def test_joined_stream_is_the_same_byte_for_byte(gateway_for: GatewayFor) -> None:
    async with staged(gateway_for) as stage:
        await stage.leave_midway(FIRST)
        stage.gated.free.set()
        answer = await stage.ask(AGAIN)
        assert answer.status == 200
        assert answer.body == stage.gated.body
        assert len(stage.worker.requests) == 1
        assert stage.joined("count") == 1


async def test_retry_after_the_end_gets_the_kept_response_once(gateway_for: GatewayFor) -> None:
    async with staged(gateway_for) as stage:
        await stage.leave_midway(FIRST)
        stage.gated.free.set()
        await stage.live.plugin(Watcher).calls(1)
        kept, anew = await stage.ask(AGAIN), await stage.ask(AGAIN)
        assert kept.body == anew.body == stage.gated.body
        assert len(stage.worker.requests) == 2, "whoever has got the response needs no other one"


async def test_two_retries_at_once_join_one_call_by_its_key(gateway_for: GatewayFor) -> None:
    async with staged(gateway_for) as stage:
        key = {"idempotency-key": '"one-of-mine"'}
        async with stage.asking(key) as first:
            await stage.gated.begun.wait()
            second, third = [asyncio.create_task(stage.ask(key)) for _ in range(2)]
            await until(lambda: stage.joined("idempotency_key") == 2)
            stage.gated.free.set()
            answers = [await first.answer("POST"), await second, await third]
        assert {answer.body for answer in answers} == {stage.gated.body}
        later = await stage.ask({"idempotency-key": "one-of-mine"})
        assert later.body == stage.gated.body
        assert len(stage.worker.requests) == 1


async def test_key_of_another_request_is_refused(gateway_for: GatewayFor) -> None:
    async with staged(gateway_for) as stage:
        stage.gated.free.set()
        key = {"idempotency-key": "k", "authorization": "ada"}
        await stage.ask(key)
        other = json.dumps(chat("Other", stream=True)).encode()
        refused = await stage.ask(key, body=other)
        assert refused.status == 422
        assert json.loads(refused.body)["error"]["code"] == "idempotency_key_reused"
        elsewhere = await stage.ask(key, path="/sessions/one/v1/chat/completions")
        assert elsewhere.status == 422
        bob = await stage.ask({**key, "authorization": "bob"}, body=other)
        assert bob.status == 200, "keys of different principals are different"
        long = await stage.ask({"idempotency-key": "k" * 256})
        assert long.status == 400


@pytest.mark.parametrize(
    ("first", "again", "path"),
    [
        ({**FIRST, "authorization": "ada"}, {**AGAIN, "authorization": "bob"}, CHAT),
        ({**FIRST, "x-session-id": "one"}, {**AGAIN, "x-session-id": "two"}, CHAT),
        (FIRST, FIRST, CHAT),
        (FIRST, AGAIN, "/v1/completions"),
        ({}, AGAIN, CHAT),
    ],
)
async def test_other_calls_are_calls_of_their_own(
    gateway_for: GatewayFor, first: Mapping[str, str], again: Mapping[str, str], path: str
) -> None:
    async with staged(gateway_for) as stage:
        async with stage.asking(first) as client:
            await client.reader.readuntil(b"word1")
            leave(client, reset=True)
        if first:
            await until(lambda: stage.alone() == 1)
        else:
            await stage.live.plugin(Watcher).calls(1)
        stage.gated.free.set()
        assert (await stage.ask(again, path)).status == 200
        assert len(stage.worker.requests) == 2


async def test_siblings_with_one_body_each_get_a_generation(gateway_for: GatewayFor) -> None:
    """Without a session: a group of rollouts sends the same prompt, and each needs its own."""
    async with staged(gateway_for) as stage:
        await stage.leave_midway(FIRST)
        await stage.leave_midway(FIRST)
        async with stage.asking(FIRST) as present:
            await present.reader.readuntil(b"word1")
            three = [asyncio.create_task(stage.ask(AGAIN)) for _ in range(3)]
            await until(lambda: len(stage.worker.requests) == 4)
            stage.gated.free.set()
            joined = [await one for one in three]
        replayed = [answer.value(b"x-gateway-joined") for answer in joined]
        assert len({*replayed}) == 3, "two joined one call each, the third none"


async def test_retry_that_leaves_too_leaves_the_call_to_the_next_one(
    gateway_for: GatewayFor,
) -> None:
    async with staged(gateway_for) as stage:
        await stage.leave_midway(FIRST)
        async with stage.asking(AGAIN) as second:
            await second.reader.readuntil(b"word1")
            assert not stage.alone()
            leave(second, reset=True)
        await until(lambda: stage.alone() == 1)
        stage.gated.free.set()
        third = await stage.ask({"x-stainless-retry-count": "2"})
        assert third.body == stage.gated.body
        assert len(stage.worker.requests) == 1


async def test_call_without_a_retry_ends_after_the_grace(gateway_for: GatewayFor) -> None:
    async with staged(gateway_for, grace=0.05) as stage:
        async with stage.asking(FIRST) as client:
            await client.reader.readuntil(b"word1")
            leave(client, reset=False)
        outcome = await stage.live.plugin(Watcher).outcome()
        assert (outcome.result, outcome.caller_gone) == ("caller_gone", True)
        await until(lambda: not stage.worker.connections_open)
        assert not stage.alone()


async def test_retry_that_reads_is_not_broken_off_after_the_grace(gateway_for: GatewayFor) -> None:
    key = {"idempotency-key": "one-of-mine"}
    async with staged(gateway_for, grace=0.05) as stage:
        async with stage.asking(key) as first:
            await first.reader.readuntil(b"word1")
            retry = asyncio.create_task(stage.ask(key))
            await until(lambda: stage.joined("idempotency_key") == 1)
            [[kept]] = stage.live.plugin(JoinRetries)._responses._by_place.values()
            leave(first, reset=False)
            await until(lambda: kept.left_at is not None)
        async with stage.asking(FIRST) as other:
            await other.reader.readuntil(b"word1")
            leave(other, reset=False)
        assert (await stage.live.plugin(Watcher).outcome()).caller_gone, "its grace ended later"
        stage.gated.free.set()
        assert (await retry).body == stage.gated.body


async def test_shutdown_waits_for_no_retry(gateway_for: GatewayFor) -> None:
    async with staged(gateway_for, grace=600) as stage:
        await stage.leave_midway(FIRST)
        await stage.live.gateway.drain(30)
        assert (await stage.live.plugin(Watcher).outcome()).caller_gone


async def test_caller_that_leaves_during_shutdown_is_not_waited_for(
    gateway_for: GatewayFor,
) -> None:
    async with staged(gateway_for, grace=600) as stage:
        async with stage.asking(FIRST) as client:
            await client.reader.readuntil(b"word1")
            draining = asyncio.create_task(stage.live.gateway.drain(30))
            await until(lambda: stage.live.gateway.draining)
            leave(client, reset=False)
            assert (await stage.live.plugin(Watcher).outcome()).caller_gone
        await draining


async def test_joined_stream_breaks_where_the_worker_breaks(gateway_for: GatewayFor) -> None:
    async with staged(gateway_for) as stage:
        await stage.leave_midway(FIRST)
        async with stage.asking(AGAIN) as retry:
            reading = asyncio.create_task(retry.answer("POST"))
            await until(lambda: stage.alone() == 0)
            stage.worker.connections[0].abort()
            with pytest.raises(CutShort) as cut:
                await reading
        assert cut.value.answer.body == event(0) + event(1)
        stage.gated.free.set()
        anew = await stage.ask(AGAIN)
        assert anew.body == stage.gated.body
        assert len(stage.worker.requests) == 2, "a broken response is no answer to a retry"


async def test_error_before_the_head_goes_to_the_retry_and_is_not_kept(
    gateway_for: GatewayFor,
) -> None:
    refuses = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await refuses.wait()
        await connection.write(answer_of(b'{"error": 1}', status="500 No"))

    async with ScriptedWorker(script) as worker:
        live = await gateway_for(entry(JoinRetries), "metrics", workers=[worker.url])
        stage = Stage(live, worker, Gated())
        async with stage.asking(FIRST) as client:
            await until(lambda: len(worker.requests) == 1)
            leave(client, reset=False)
        await until(lambda: stage.alone() == 1)
        retry = asyncio.create_task(stage.ask(AGAIN))
        await until(lambda: stage.alone() == 0)
        refuses.set()
        assert (await retry).status == 500
        assert (await stage.ask(AGAIN)).status == 500
        assert len(worker.requests) == 2
        assert stage.metric("gateway_retries_kept_bytes") == 0


async def test_same_body_of_a_session_joins_only_if_it_is_told_to(gateway_for: GatewayFor) -> None:
    mine = {**FIRST, "x-session-id": "mine"}
    async with staged(gateway_for, same_body=30) as stage:
        await stage.leave_midway(mine)
        stage.gated.free.set()
        assert (await stage.ask(FIRST)).value(b"x-gateway-joined") is None, "of no session"
        again = await stage.ask(mine)
        assert again.body == stage.gated.body
        assert stage.joined("same_body") == 1
        assert len(stage.worker.requests) == 2
        assert (await stage.ask(mine)).value(b"x-gateway-joined") is None


async def test_memory_for_many_left_calls_is_bounded(gateway_for: GatewayFor) -> None:
    gated = Gated(filler=b"x" * 200_000)
    options = {"max_bytes": 1 << 20, "max_response_bytes": 1 << 18}
    async with staged(gateway_for, gated, **options) as stage:
        for number in range(12):
            await stage.leave_midway({**FIRST, "x-session-id": f"s{number}"})
        stage.gated.free.set()
        await stage.live.plugin(Watcher).calls(12)
        assert 0 < stage.metric("gateway_retries_kept_bytes") <= 1 << 20
        answers = [await stage.ask({**AGAIN, "x-session-id": f"s{n}"}) for n in range(12)]
        assert {answer.body for answer in answers} == {gated.body}
        assert len(stage.worker.requests) > 12, "some had to be generated again"


async def test_too_large_response_goes_on_to_its_caller_and_is_not_kept(
    gateway_for: GatewayFor,
) -> None:
    gated = Gated(filler=b"x" * 200_000)
    async with staged(gateway_for, gated, max_response_bytes=1 << 16) as stage:
        stage.gated.free.set()
        assert (await stage.ask({"idempotency-key": "k"})).body == gated.body
        assert stage.metric("gateway_retries_dropped_total") == 1
        assert stage.metric("gateway_retries_kept_bytes") == 0


@steady
async def test_openai_client_with_a_timeout_joins_its_own_call(gateway_for: GatewayFor) -> None:
    worker = Simulator(SimulatorConfig(ttft=0.6))
    async with worker:
        live = await gateway_for(entry(JoinRetries), Watcher, "metrics", workers=[worker.url])
        async with AsyncOpenAI(
            base_url=f"{live.url}/v1", api_key="unused", max_retries=2, timeout=0.4
        ) as client:
            answer: ChatCompletion = await client.chat.completions.create(
                model="sim", messages=[{"role": "user", "content": "Hello"}], max_tokens=5
            )
        assert answer.choices[0].finish_reason == "length"
        watcher = live.plugin(Watcher)
        await watcher.calls(2)
        assert len(watcher.attempts) == 1
        stage = Stage(live, ScriptedWorker(b""), Gated())
        assert stage.joined("count") == 1


async def test_joined_call_has_one_complete_trace_and_is_counted_once(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    worker = Simulator(SimulatorConfig(itl=0.01))
    async with worker:
        live = await gateway_for(
            "sessions",
            entry(JoinRetries),
            CAPTURE,
            "usage",
            "metrics",
            workers=[worker.url],
            storage={"path": str(tmp_path / "g.db")},
        )
        stage = Stage(live, ScriptedWorker(b""), Gated())
        path = "/sessions/one/v1/chat/completions"
        body = json.dumps(chat(stream=True, max_tokens=30, ignore_eos=True)).encode()
        async with stage.asking(FIRST, path, body) as client:
            await client.reader.readuntil(b"data: ")
            leave(client, reset=False)
        await until(lambda: stage.alone() == 1)
        answer = await stage.ask(AGAIN, path, body)
        assert answer.body.endswith(b"data: [DONE]\n\n")
        traces = (await live.client.get("/sessions/one/traces")).json()
        assert [trace["verdict"] for trace in traces] == ["COMPLETE"]
        assert traces[0]["call_id"] == (answer.value(b"x-gateway-joined") or b"").decode()
        assert traces[0]["delivery"]["caller_gone"] is False
        usage = (await live.client.get("/monitor/key_usage")).json()["data"]
        assert sum(row["requests"] for row in usage) == 1
        assert sum(row["completion_tokens"] for row in usage) == 30
        assert sum(row["repeated"] for row in usage) == 1


async def test_trace_of_a_response_that_ended_before_its_retry_came_is_complete(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    worker = Simulator(SimulatorConfig(itl=0.01))
    async with worker:
        live = await gateway_for(
            "sessions",
            entry(JoinRetries),
            CAPTURE,
            "metrics",
            Watcher,
            workers=[worker.url],
            storage={"path": str(tmp_path / "g.db")},
        )
        stage = Stage(live, ScriptedWorker(b""), Gated())
        path = "/sessions/one/v1/chat/completions"
        body = json.dumps(chat(stream=True, max_tokens=20, ignore_eos=True)).encode()
        async with stage.asking(FIRST, path, body) as client:
            await client.reader.readuntil(b"data: ")
            leave(client, reset=False)
        await until(lambda: stage.alone() == 1)
        await live.plugin(Watcher).calls(1)
        answer = await stage.ask(AGAIN, path, body)
        assert answer.body.endswith(b"data: [DONE]\n\n")
        [trace] = (await live.client.get("/sessions/one/traces")).json()
    assert (trace["verdict"], trace["reasons"]) == ("COMPLETE", [])
    assert trace["call_id"] == (answer.value(b"x-gateway-joined") or b"").decode()
    told = {name: trace["delivery"][name] for name in ("caller_gone", "complete", "result")}
    assert told == {"caller_gone": True, "complete": True, "result": "success"}


async def test_joined_stream_of_messages_is_the_translated_one(gateway_for: GatewayFor) -> None:
    gated = Gated()
    async with ScriptedWorker(gated.script) as worker:
        live = await gateway_for(
            entry(JoinRetries),
            entry("translate", messages="always"),
            "metrics",
            workers=[worker.url],
        )
        stage = Stage(live, worker, gated)
        body = json.dumps({**chat(stream=True), "max_tokens": 3}).encode()
        async with stage.asking(FIRST, "/v1/messages", body) as client:
            begin = await client.reader.readuntil(b"word1")
            leave(client, reset=False)
        await until(lambda: stage.alone() == 1)
        gated.free.set()
        answer = await stage.ask(AGAIN, "/v1/messages", body)
        assert b"event: message_start" in begin
        assert answer.body.startswith(b"event: message_start")
        assert answer.body.rstrip().endswith(b'{"type":"message_stop"}')
        assert len(worker.requests) == 1


async def test_plain_openai_call_without_retries_is_as_it_was(gateway_for: GatewayFor) -> None:
    live = await gateway_for(entry(JoinRetries))
    async with AsyncOpenAI(base_url=f"{live.url}/v1", api_key="unused") as client:
        made = await client.chat.completions.create(
            model="sim", messages=[{"role": "user", "content": "Hello"}], max_tokens=5
        )
    assert made.usage is not None
    with pytest.raises(openai.NotFoundError):
        async with AsyncOpenAI(base_url=f"{live.url}/v1", api_key="unused") as client:
            await client.get("/nothing", cast_to=httpx.Response)
