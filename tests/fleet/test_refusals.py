"""What one worker rejects holds for the same kind of request, and for a time."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import Call, Outcome, hookimpl
from gateway.fleet.injection_support import (
    MAX_KINDS,
    RETRY_AFTER,
    Kind,
    KnownEngine,
    Refusals,
    kind_of,
)
from gateway.fleet.probes import read_owner
from gateway.testing import DONE, GatewayFor, ScriptedWorker, answer_of, entry, sse
from gateway.testing.worker import ScriptedConnection
from gateway.wire.injection import INJECTIONS, NO_INJECTIONS, Injection

IDS: frozenset[Injection] = frozenset(["token_ids"])
LOGPROBS: frozenset[Injection] = frozenset(["logprobs"])
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
TOOLS = [{"type": "function", "function": {"name": "f"}}]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Learning:
    """The refusals of one worker, taught call by call."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.refusals = Refusals("w", inject=True, clock=self.clock)

    def refuses(self, what: frozenset[Injection], **request: object) -> None:
        self.refusals.learn("chat", lambda: request, NO_INJECTIONS, what)

    def takes(self, what: frozenset[Injection], **request: object) -> None:
        self.refusals.learn("chat", lambda: request, what, NO_INJECTIONS)

    def left_out(self, **request: object) -> frozenset[Injection]:
        return self.refusals.of("chat", lambda: request)


def test_rejected_injection_is_left_out_of_requests_of_its_kind_alone() -> None:
    worker = Learning()

    worker.refuses(IDS, stream=True, model="a")

    assert worker.left_out(stream=True, model="a", temperature=0.3, messages=[1]) == IDS
    assert worker.left_out(stream=True, model="b") == NO_INJECTIONS
    assert worker.left_out(stream="true", model="a") == NO_INJECTIONS
    assert worker.left_out(model="a") == NO_INJECTIONS
    assert worker.left_out(stream=True, tools=TOOLS, model="a") == NO_INJECTIONS
    request = {"stream": True, "model": "a"}
    assert worker.refusals.of("completions", lambda: request) == NO_INJECTIONS


def test_rejected_injection_is_tried_again_after_a_time() -> None:
    worker = Learning()
    worker.refuses(IDS)

    worker.clock.now = RETRY_AFTER - 1
    assert worker.left_out() == IDS
    assert len(worker.refusals) == 1
    worker.clock.now = RETRY_AFTER
    assert worker.left_out() == NO_INJECTIONS
    assert len(worker.refusals) == 0
    worker.refuses(IDS)
    assert worker.left_out() == IDS


def test_injection_that_the_worker_takes_again_is_forgotten() -> None:
    worker = Learning()
    worker.refuses(IDS)
    worker.clock.now = RETRY_AFTER
    worker.takes(IDS)

    worker.refuses(IDS)

    assert worker.left_out() == NO_INJECTIONS  # for it may have been chance


def test_injection_accepted_elsewhere_has_to_be_rejected_twice() -> None:
    worker = Learning()
    worker.takes(LOGPROBS)

    worker.refuses(LOGPROBS, tools=TOOLS)
    assert worker.left_out(tools=TOOLS) == NO_INJECTIONS
    worker.refuses(LOGPROBS, tools=TOOLS)
    assert worker.left_out(tools=TOOLS) == LOGPROBS
    assert worker.left_out() == NO_INJECTIONS


def test_injection_rejected_by_chance_stays_if_it_is_accepted_between() -> None:
    worker = Learning()
    for _ in range(3):
        worker.takes(LOGPROBS)
        worker.refuses(LOGPROBS)

    assert worker.left_out() == NO_INJECTIONS


def test_kinds_that_callers_choose_take_bounded_memory() -> None:
    worker = Learning()
    for number in range(3 * MAX_KINDS):
        worker.refuses(IDS, model=f"m{number}")

    assert len(worker.refusals) == MAX_KINDS
    assert worker.left_out(model=f"m{number}") == IDS


def test_kinds_that_are_not_seen_again_are_forgotten() -> None:
    worker = Learning()
    worker.refuses(IDS, model="a")
    worker.clock.now = 3 * RETRY_AFTER
    worker.left_out(model="b")

    assert not worker.refusals._learned


@given(st.dictionaries(st.text(max_size=100), st.integers() | st.text() | st.none(), max_size=60))
def test_kind_of_any_request_is_small(request: dict[str, object]) -> None:
    kind = kind_of("chat", {**request, "model": "m" * 1000})

    assert len(msgspec.json.encode(kind)) < 16_000


@pytest.mark.parametrize(
    ("request_", "traits"),
    [
        ({"stream": False, "tools": [], "n": None, "temperature": 1, "user": "x"}, ()),
        ({"stream": True, "tools": TOOLS, "n": 2}, ("n>1", "stream", "tools")),
        ({"stream": "false", "n": 1, "logprobs": 0}, ("logprobs=0", "n=1", "stream=text")),
        ({"response_format": {"type": "json_object"}}, ("response_format",)),
    ],
)
def test_kind_names_what_a_request_has_set(
    request_: dict[str, object], traits: tuple[str, ...]
) -> None:
    assert kind_of("chat", {**request_, "model": 1}) == Kind("chat", "", traits)


class Injecting:
    def __init__(self) -> None:
        self.left_out: list[object] = []

    @hookimpl
    async def prepare(self, call: Call) -> None:
        await call.inject(*INJECTIONS)

    @hookimpl
    async def call_finished(self, call: Call, outcome: Outcome) -> None:
        self.left_out.append(sorted({"return_token_ids", "logprobs"} - call.injected.keys()))


class LlamaCpp(ScriptedWorker):
    """Rejects logprobs with tools in a stream, and takes each two of them, as llama.cpp does."""

    def __init__(self) -> None:
        super().__init__(self._serve)

    async def _serve(self, connection: ScriptedConnection) -> None:
        while True:
            request = await connection.read_request()
            await connection.write(self._answer(json.loads(request.partition(b"\r\n\r\n")[2])))

    def _answer(self, body: dict[str, Any]) -> bytes:
        if body.get("logprobs") and body.get("tools") and body.get("stream"):
            error = {"code": 400, "message": "logprobs is not supported with tools + stream"}
            return answer_of(msgspec.json.encode({"error": error}), status="400 Bad Request")
        if body.get("stream"):
            end = {"index": 0, "delta": {}, "finish_reason": "stop"}
            return answer_of(sse({"choices": [end]}) + DONE, content_type="text/event-stream")
        return answer_of(b'{"choices":[]}')


async def test_combination_that_a_worker_rejects_takes_logprobs_from_no_other_call(
    gateway_for: GatewayFor,
) -> None:
    kinds: list[dict[str, object]] = [{"stream": True}, {"tools": TOOLS}, {}]
    async with LlamaCpp() as worker:
        live = await gateway_for(Injecting, entry("metrics"), workers=[worker.url])

        async def ask(more: dict[str, object]) -> None:
            answer = await live.client.post("/v1/chat/completions", json={**CHAT, **more})
            assert answer.status_code == 200
            assert "x-gateway-attempts" not in answer.headers

        for more in kinds:
            await ask(more)
        for _ in range(3):
            await ask({"stream": True, "tools": TOOLS})
        for more in kinds:
            await ask(more)
        [info] = (await live.client.get("/health/workers")).json()["workers"]
        metrics = (await live.client.get("/metrics")).text

    left_out = live.plugin(Injecting).left_out
    assert left_out == [[], [], [], ["logprobs"], ["logprobs"], ["logprobs"], [], [], []]
    assert len(worker.requests) == 9 + 2  # from the third such call on it is known
    [told] = info["refused_injections"]
    assert (told["dialect"], told["model"], told["fields"]) == ("chat", "m", ["logprobs"])
    assert told["request"] == ["stream", "tools"]
    assert f'gateway_worker_refused_injections{{worker="{info["worker_id"]}"}} 1' in metrics


def test_engine_is_known_by_what_it_says_until_that_is_old() -> None:
    now = 0.0
    engine = KnownEngine(clock=lambda: now)
    assert engine.now() is None
    engine.note_refusal()
    assert engine.now() == "sglang"
    now = RETRY_AFTER
    assert engine.now() is None

    engine.note_refusal()
    engine.note_owner("vllm")
    assert engine.now() is None, "another engine has taken its place"
    engine.note_refusal()
    engine.note_owner("vllm")
    assert engine.now() == "sglang", "a router may list what another engine owns"
    engine.note_owner("sglang")
    now *= 3
    assert engine.now() == "sglang"
    engine.note_owner("")
    assert engine.now() is None
    assert KnownEngine("sglang").now() == "sglang"


@pytest.mark.parametrize(
    ("body", "owner"),
    [
        (b'{"data":[{"id":"a","owned_by":"sglang"},{"id":"b","owned_by":"x"}]}', "sglang"),
        (b'{"data":[{"id":"a"}]}', ""),
        (b'{"data":[{"id":"a","owned_by":7}]}', ""),
        (b'{"data":[]}', ""),
        (b"[]", ""),
        (b"\xff", ""),
    ],
)
def test_owner_of_models_is_read(body: bytes, owner: str) -> None:
    assert read_owner(body) == owner
