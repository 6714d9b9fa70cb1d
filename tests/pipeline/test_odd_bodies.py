"""Bodies that are not quite JSON: the engine judges, or the true reason is told and recorded."""

import pytest
from msgspec.structs import replace
from support.callers.seen_request import seen

from gateway import Call, Principal, hookimpl
from gateway.config import Config, StorageSettings, Worker
from gateway.testing import NO_PROBES, ScriptedWorker, answer_of, entry, live

CHAT = "/sessions/s/v1/chat/completions"
CUT = rb'{"model": "m", "messages": [{"role": "user", "content": "cut \ud83d"}], "stream": true}'
ANSWER = answer_of(b'{"choices": []}')


def before(worker: ScriptedWorker, *plugins: str) -> Config:
    return Config(
        probes=NO_PROBES,
        workers=(Worker(url=worker.url),),
        plugins=tuple(entry(plugin) for plugin in plugins),
        storage=StorageSettings(path=":memory:"),
    )


async def test_lone_surrogate_goes_to_the_engine_and_into_the_trace() -> None:
    async with ScriptedWorker(ANSWER) as worker:
        async with live(before(worker, "sessions", "trace_capture", "stickiness")) as gateway:
            answer = await gateway.client.post(CHAT, content=CUT)
            [trace] = (await gateway.client.get("/sessions/s/traces")).json()
    assert answer.status_code == 200
    sent = seen(worker.requests[0]).body
    assert rb'"content": "cut \ud83d"' in sent
    assert b'"return_token_ids":true' in sent
    assert trace["messages"] == [{"role": "user", "content": "cut �"}]
    assert trace["model"] == "m"


async def test_lone_surrogate_hides_no_model_from_routing() -> None:
    async with ScriptedWorker(ANSWER) as one, ScriptedWorker(ANSWER) as other:
        workers = tuple(Worker(url=w.url, models=(m,)) for w, m in ((one, "m"), (other, "other")))
        async with live(Config(probes=NO_PROBES, workers=workers)) as gateway:
            for _ in range(4):
                await gateway.client.post("/v1/chat/completions", content=CUT)
    assert (len(one.requests), len(other.requests)) == (4, 0)
    assert {seen(request).body for request in one.requests} == {CUT}


@pytest.mark.parametrize(
    ("body", "headers", "told"),
    [
        (b'{"a": "caf\xe9"}', {}, "the byte 0xe9 at position 10 is not UTF-8"),
        (b'{"a": NaN}', {}, "(byte 6)"),
        (b'{"a": "\x01"}', {}, "(byte 7)"),
        (b'{"a": 1', {}, "truncated"),
        (b"{a=b}", {"content-type": "application/x-www-form-urlencoded"}, "x-www-form-urlencoded"),
        (b"{\x1f\x8b", {"content-encoding": "gzip"}, "compressed (content-encoding: gzip)"),
    ],
)
async def test_refusal_of_a_body_says_why_and_is_in_the_traces(
    body: bytes, headers: dict[str, str], told: str
) -> None:
    async with ScriptedWorker(ANSWER) as worker:
        plugins = ("access_log", "sessions", "trace_capture", "usage")
        async with live(before(worker, *plugins)) as gateway:
            answer = await gateway.client.post(CHAT, content=body, headers=headers)
            [trace] = (await gateway.client.get("/sessions/s/traces")).json()
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "invalid_json")
    assert told in error["message"]
    assert not worker.requests
    assert (trace["delivery"]["status"], trace["error"]) == (400, error["message"])
    assert trace["reasons"] == ["error_answer"]


@pytest.mark.parametrize(
    "body",
    ['{"a": 1}'.encode("utf-16"), '{"a": 1}'.encode("utf-16-le"), b"\xef\xbb\xbf{}", b"a=b&c=d"],
)
async def test_body_that_cannot_be_changed_is_judged_by_the_engine(body: bytes) -> None:
    async with ScriptedWorker(answer_of(b"{}", status="400 Bad Request")) as worker:
        async with live(before(worker, "sessions", "trace_capture", "usage")) as gateway:
            answer = await gateway.client.post(CHAT, content=body)
            [trace] = (await gateway.client.get("/sessions/s/traces")).json()
    assert (answer.status_code, answer.content) == (400, b"{}")
    assert [seen(request).body for request in worker.requests] == [body]
    assert trace["delivery"]["status"] == 400


async def test_control_route_says_where_half_a_surrogate_is() -> None:
    async with ScriptedWorker(ANSWER) as worker:
        async with live(before(worker, "sessions", "trace_capture")) as gateway:
            answer = await gateway.client.post("/sessions", content=b'{"session_id": "\\ud83d"}')
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "invalid_json")
    assert error["message"].endswith("half of a surrogate pair at position 16")


class OnlyM:
    """Knows one caller, whose key is for the model `m`."""

    @hookimpl
    async def authenticate(self, call: Call) -> Principal:
        return Principal(id="k", scopes=frozenset({"realtime"}), models=frozenset({"m"}))


@pytest.mark.parametrize(
    "body",
    [
        '{"model": "secret"}'.encode("utf-16"),
        b'\xef\xbb\xbf{"model": "secret"}',
        b'{"temperature": NaN, "model": "secret"}',
        b'{"a": "caf\xe9", "model": "secret"}',
        rb'{"a": "\ud83d", "model": "secret"}',
    ],
)
async def test_key_for_some_models_gets_no_other_by_an_odd_body(body: bytes) -> None:
    async with ScriptedWorker(ANSWER) as worker:
        config = replace(before(worker), plugins=(entry(OnlyM),))
        async with live(config) as gateway:
            url = "/v1/chat/completions"
            answers = [
                await gateway.client.post(f"{url}{query}", content=body)
                for query in ("", "?model=m")
            ]
            fine = await gateway.client.post(url, content=CUT)
    assert [answer.status_code for answer in answers] == [403, 403]
    assert fine.status_code == 200
    assert len(worker.requests) == 1


@pytest.mark.parametrize(
    "body",
    [
        b" " * 100 + b'{"max_tokens": 99}',
        b'\xef\xbb\xbf{"max_tokens": 99}',
        '{"max_tokens": 99}'.encode("utf-16"),
        rb'{"a": "\ud83d", "max_tokens": 99}',
    ],
)
async def test_cap_of_a_session_holds_for_an_odd_body(body: bytes) -> None:
    async with ScriptedWorker(ANSWER) as worker:
        async with live(before(worker, "sessions", "trace_capture")) as gateway:
            capped = {"session_id": "s", "sampling_params": {"max_tokens": 5}}
            assert (await gateway.client.post("/sessions", json=capped)).status_code < 300
            answer = await gateway.client.post(CHAT, content=body)
    if answer.status_code == 400:
        assert answer.json()["error"]["code"] == "invalid_json"
    sent = [seen(request).body for request in worker.requests]
    assert len(sent) == (answer.status_code == 200)
    assert all(b'"max_tokens":5' in one for one in sent)
