"""A continuation that fails harms no stream: what it held back is sent, and the call goes on."""

from collections.abc import Collection

import pytest
from support.gateways.dispatching import dispatch, gateway_of
from support.workers.cut_worker import END, HEAD, chunk

from gateway import Call, Continued, Event, Worker, get_header, hookimpl
from gateway.config import ServerLimits
from gateway.testing import RecordedCall, ScriptedConnection, ScriptedWorker, make_call, sse

TEXTS = [sse({"choices": [{"index": 0, "text": text}]}) for text in "abcd"]
FINISH = sse({"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]})
DONE = b"data: [DONE]\n\n"
LARGE = sse({"choices": [{"index": 0, "text": "x" * 1_000_000}]})
"""An event of several reads."""


class Plugin:
    """Sets a continuation that fails in the methods that the header `x-fails` names."""

    @hookimpl
    async def prepare(self, call: Call) -> None:
        names = get_header(call.headers, b"x-fails") or b""
        call.continuation = Failing(names.decode().split())
        await call.inject("usage")


class Failing:
    """A continuation that holds two events back, and makes a mistake in each method of `names`."""

    tokens = None

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._held: list[bytes] = []

    def event(self, event: Event) -> bytes:
        if len(self._held) == 2:
            self._fail("event")
        self._held.append(event.raw)
        return self._held.pop(0) if len(self._held) > 2 else b""

    def end(self) -> bytes:
        self._fail("end")
        return self.give_up("")

    def give_up(self, words: str) -> bytes:
        self._fail("give_up")
        held, self._held = b"".join(self._held), []
        return held

    def rest(self) -> bytes | None:
        self._fail("rest")
        return None

    async def resume(self, worker: Worker) -> Continued | None:
        self._fail("resume")
        return None

    def _fail(self, name: str) -> None:
        if name in self._names:
            raise ValueError(f"a mistake in {name}")


async def streamed(fails: str, stream: bytes) -> RecordedCall:
    """Return the call that got as much of `stream` from the first of two such workers."""

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.write(HEAD + stream)

    asked = make_call(
        path="/v1/completions",
        headers={"content-type": "application/json", "x-fails": fails},
        body=b'{"model": "m", "prompt": "p", "stream": true}',
    )
    limits = ServerLimits(max_event_bytes=2_048)
    async with ScriptedWorker(script) as one, ScriptedWorker(script) as two:
        async with gateway_of(Plugin, workers=[one.url, two.url], limits=limits) as gateway:
            return await dispatch(gateway, asked)


@pytest.mark.parametrize("name", ["event", "end"])
async def test_what_a_continuation_holds_back_is_sent_after_its_mistake(name: str) -> None:
    sent = [*TEXTS, FINISH, DONE]
    call = await streamed(name, b"".join(map(chunk, sent)) + END)
    assert call.caller.body == b"".join(sent)
    assert call.outcome.failures == ["continuation"]
    assert call.outcome.error is None


async def test_the_part_of_an_event_after_a_mistake_is_sent_with_its_end() -> None:
    sent = b"".join([*TEXTS, FINISH])
    call = await streamed("event", chunk(sent[:-9]) + chunk(sent[-9:] + DONE) + END)
    assert call.caller.body == sent + DONE


async def test_an_event_that_waits_for_the_usage_is_sent_even_after_a_mistake() -> None:
    sent = b"".join([*TEXTS, FINISH])
    call = await streamed("event", chunk(sent))
    assert call.caller.body.startswith(sent)
    assert call.outcome.error is not None
    assert call.outcome.error.code == "upstream_closed"


async def test_a_mistake_in_both_event_and_give_up_costs_only_what_was_held_back() -> None:
    sent = [*TEXTS, FINISH, DONE]
    call = await streamed("event give_up", b"".join(map(chunk, sent)) + END)
    assert call.caller.body == b"".join(sent[2:])
    assert call.outcome.error is None


async def test_a_mistake_in_give_up_leaves_the_large_event_as_it_is() -> None:
    sent = [*TEXTS, LARGE, FINISH, DONE]
    call = await streamed("give_up", b"".join(map(chunk, sent)) + END)
    assert call.caller.body == b"".join([*sent[:2], *sent[4:]])
    assert "continuation" in call.outcome.failures
    assert call.outcome.error is None


@pytest.mark.parametrize("name", ["rest", "resume"])
async def test_after_a_mistake_a_broken_stream_breaks_off_as_without_the_plugin(name: str) -> None:
    call = await streamed(name, b"".join(map(chunk, TEXTS)))
    assert call.caller.body.startswith(b"".join(TEXTS[:2]))
    assert call.outcome.failures == ["continuation"]
    assert call.outcome.error is not None
    assert call.outcome.error.code == "upstream_closed"
    assert len(call.attempts) == 1
