"""What each hook may do, in a real gateway on a real socket."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import pytest
from support.gateways.capturing import call, capturing
from support.gateways.reloadable import Yielding, reloadable
from support.gateways.watched_pages import Offers
from support.plugins.capture_probes import Notes, Reader, Redactor
from support.plugins.hook_probes import (
    Ailing,
    Beside,
    BesideToo,
    Canned,
    CannedStream,
    Capitals,
    Colours,
    Cooler,
    Counting,
    Door,
    Ends,
    First,
    Keys,
    Last,
    Limit,
    Only,
    OtherKeys,
    Pages,
    Patient,
    Recorder,
    Shout,
    ThenOnly,
    Tolling,
    Witness,
)
from support.plugins.recording_plugin import Watcher, until
from support.plugins.samplers import Sampler, header_of

from gateway import (
    Config,
    ConfigError,
    ConstraintViolated,
    Database,
    Gateway,
    NewWork,
    Principal,
    WorkQueue,
    api_of,
    cli,
)
from gateway.config import StorageSettings
from gateway.simulator import Simulator
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
BODY = {"model": "sim", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}


async def post(live: Live, headers: dict[str, str] | None = None, **body: object) -> httpx.Response:
    return await live.client.post(CHAT, json=BODY | body, headers=headers)


def error_of(answer: httpx.Response) -> str:
    code: str = answer.json()["error"]["code"]
    return code


async def test_authenticate_takes_the_first_principal(
    gateway_for: GatewayFor, simulator: Simulator
) -> None:
    live = await gateway_for(entry(Keys, key="a"), entry(OtherKeys, key="ab"), Witness)
    first, second = live.plugin(Keys), live.plugin(OtherKeys)
    for key in ("abc", "b"):
        second.asked.clear()
        answer = await post(live, {"authorization": key})
        assert answer.status_code == (200 if key == "abc" else 401)
        assert second.asked == ([] if key == "abc" else ["b"])
    assert error_of(answer) == "invalid_api_key"
    assert answer.headers["www-authenticate"] == "Bearer"
    assert (await post(live, {"authorization": "revoked"})).json()["error"]["code"] == "revoked"
    assert first.asked == ["abc", "b", "revoked"]
    assert second.asked == ["b"], "who is refused by one is not asked of the next"
    calls = live.plugin(Witness).calls
    assert [call.principal and call.principal.id for call in calls] == ["a", None, None]
    assert simulator.stats.accepted == 1


async def test_admit_rejects_a_call(gateway_for: GatewayFor, simulator: Simulator) -> None:
    live = await gateway_for(Limit)
    assert (await post(live)).status_code == 200
    refused = await post(live)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "7")
    assert refused.json()["error"] == {
        "message": "come back later",
        "type": "rate_limit_error",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    assert simulator.stats.served == 1


async def test_admit_may_wait(gateway_for: GatewayFor, simulator: Simulator) -> None:
    live = await gateway_for(Door)
    door = live.plugin(Door)
    waiting = asyncio.create_task(post(live))
    await door.reached.wait()
    assert simulator.stats.accepted == 0
    door.opened.set()
    assert (await waiting).status_code == 200


async def test_admit_is_cancelled_if_the_caller_disconnects(
    gateway_for: GatewayFor, simulator: Simulator
) -> None:
    live = await gateway_for(Door, Watcher)
    waiting = asyncio.create_task(post(live))
    await live.plugin(Door).reached.wait()
    waiting.cancel()
    await live.plugin(Door).left.wait()
    outcome = await live.plugin(Watcher).outcome()
    assert (outcome.caller_gone, outcome.complete, outcome.status) == (True, False, 0)
    assert simulator.stats.accepted == 0


async def test_translate_carries_a_call_as_one_of_another_api(
    gateway_for: GatewayFor, simulator: Simulator
) -> None:
    live = await gateway_for(Shout, Witness)
    answer = await live.client.post("/v1/shout", json={})
    direct = await post(live, max_tokens=2, seed=1)
    assert answer.text == direct.json()["choices"][0]["message"]["content"].upper()
    call = live.plugin(Witness).calls[0]
    assert (call.path, call.asked_path, call.dialect) == (CHAT, "/v1/shout", api_of(CHAT))


async def test_prepare_changes_only_its_fields_of_the_request_body(gateway_for: GatewayFor) -> None:
    async with ScriptedWorker(answer_of(b"{}")) as worker:
        live = await gateway_for(Cooler, Counting, workers=[worker.url])
        body = b'{"model": "sim",  "messages": [ ],\n "seed":18446744073709551616, "x":1e2}'
        await live.client.post(CHAT, content=body)
    sent = worker.requests[0].partition(b"\r\n\r\n")[2]
    assert sent == (
        b'{"model":"sim-2","messages":[ ],"seed":18446744073709551616,"x":1e2,'
        b'"temperature":0,"return_token_ids":true}'
    )


async def test_handle_answers_instead_of_a_worker(
    gateway_for: GatewayFor, simulator: Simulator
) -> None:
    live = await gateway_for(Canned, CannedStream, Recorder, Witness)
    assert (await post(live, model="canned")).content == b"canned"
    streamed = await post(live, model="stream")
    assert streamed.content == sse({"choices": [], "usage": {"total_tokens": 3}}) + DONE
    assert simulator.stats.accepted == 0
    witness = live.plugin(Witness)
    assert [call.attempts for call in witness.calls] == [[], []]
    assert witness.outcomes[1].usage is not None, "observers see it as they would a worker's"
    assert (await post(live, model="sim")).status_code == 200
    assert simulator.stats.served == 1


async def test_filter_workers_is_a_pipeline(gateway_for: GatewayFor) -> None:
    async with (
        ScriptedWorker(answer_of(b"a")) as a,
        ScriptedWorker(answer_of(b"b")) as b,
        ScriptedWorker(answer_of(b"c")) as c,
    ):
        urls = [a.url, b.url, c.url]
        ids = [url.removeprefix("http://") for url in urls]
        live = await gateway_for(
            entry(Only, ids=ids[1:]), entry(ThenOnly, ids=ids[:2]), workers=urls
        )
        assert (await post(live)).content == b"b"
        assert live.plugin(Only).given == [ids]
        assert live.plugin(ThenOnly).given == [ids[1:]]
        nobody = await gateway_for(Only, workers=urls)
        refused = await post(nobody)
    assert (refused.status_code, error_of(refused)) == (503, "no_worker")
    assert len(a.requests + b.requests + c.requests) == 1


async def test_pick_worker_takes_the_first_choice(gateway_for: GatewayFor) -> None:
    async with ScriptedWorker(answer_of(b"a")) as a, ScriptedWorker(answer_of(b"b")) as b:
        live = await gateway_for(Last, First, workers=[a.url, b.url])
        answers = [await post(live, {"x-last": "1"} if last else None) for last in (1, 1, 0, 0)]
    assert [answer.content for answer in answers] == [b"b", b"b", b"a", b"a"]
    assert answers[0].headers["x-gateway-worker"] == b.url.removeprefix("http://")


async def test_sample_trace_decides_what_the_worker_gets(gateway_for: GatewayFor) -> None:
    given = f"00-{'ab' * 16}-{'cd' * 8}"
    async with ScriptedWorker(answer_of(b"{}")) as worker:
        live = await gateway_for(Sampler, Watcher, workers=[worker.url])
        for says, flags in (("", "01"), ("yes", "00"), ("no", "01"), ("no", "00")):
            await post(live, {"traceparent": f"{given}-{flags}", "x-records": says})
        await post(live)
        await post(live, {"x-records": "yes"})
    sent = [header_of(request, b"traceparent") for request in worker.requests]
    spans = [attempt.span_id for attempt in live.plugin(Watcher).attempts]
    contexts = live.plugin(Sampler).contexts
    assert sent == [
        f"{given}-01",  # nobody takes part
        f"00-{'ab' * 16}-{spans[1]}-01",
        f"00-{'ab' * 16}-{contexts[2].span_id}-00",
        f"{given}-00",  # nobody records: neither the caller nor the gateway
        None,  # no header is invented
        f"00-{contexts[5].trace_id}-{spans[5]}-03",
    ]


async def test_attempt_finished_receives_each_attempt(
    gateway_for: GatewayFor, simulator: Simulator
) -> None:
    async with ScriptedWorker(b"") as gone:
        pass  # nobody listens at its address any more
    live = await gateway_for(First, Watcher, workers=[gone.url, simulator.url])
    assert (await post(live)).status_code == 200
    refused, served = live.plugin(Watcher).attempts
    assert refused.error is not None
    assert (refused.error.code, refused.status) == ("upstream_connect_failed", None)
    assert refused.ended is not None
    assert (refused.connected, refused.first_byte) == (None, None)
    assert (served.error, served.status, served.reused) == (None, 200, False)
    assert None not in (served.connected, served.first_byte, served.ended)
    assert (await post(live)).status_code == 200
    assert [attempt.reused for attempt in live.plugin(Watcher).attempts[2:]] == [True]


SAID = {"choices": [{"index": 0, "delta": {"content": "Hi"}, "message": {"content": "Hi"}}]}


async def test_observe_returns_an_observer_of_a_stream(gateway_for: GatewayFor) -> None:
    events = (b": wait\n\n", sse(SAID), DONE)

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        for event in events:
            await connection.write(event)
            await asyncio.sleep(0)

    async with ScriptedWorker(script) as worker:
        live = await gateway_for(Recorder, workers=[worker.url])
        assert (await post(live, stream=True)).content == b"".join(events)
    recorder = live.plugin(Recorder)
    seen = recorder.seen
    assert seen[0] == ("started", 200)
    assert b"".join(recorder.chunks) == b"".join(events)
    assert [one for one in seen if one[0] not in ("started", "data")] == [
        ("event", None),
        ("event", json.dumps(SAID, separators=(",", ":")).encode()),
        ("delta", ["Hi"]),
        ("event", b"[DONE]"),
        ("delta", True),
        ("finished", True),
    ]


async def test_observe_returns_an_observer_of_a_plain_response(gateway_for: GatewayFor) -> None:
    body = json.dumps(SAID).encode()
    async with ScriptedWorker(answer_of(body)) as worker:
        live = await gateway_for(Recorder, workers=[worker.url])
        assert (await post(live)).content == body
        assert (await post(live, {"x-unseen": "1"})).content == body
    assert live.plugin(Recorder).seen == [
        ("started", 200),
        ("data", body),
        ("delta", ["Hi"]),
        ("finished", True),
    ]


async def test_observe_is_not_called_for_a_rejected_call(gateway_for: GatewayFor) -> None:
    live = await gateway_for(Limit, Recorder)
    live.plugin(Limit).room = 0
    assert (await post(live)).status_code == 429
    assert live.plugin(Recorder).seen == []


async def test_call_finished_receives_every_call(
    gateway_for: GatewayFor, simulator: Simulator
) -> None:
    live = await gateway_for(Limit, Watcher)
    watcher = live.plugin(Watcher)
    live.plugin(Limit).room = 3
    await post(live)
    await post(live, {"x-sim-fault": "reset-before"})
    leaving = asyncio.create_task(post(live, {"x-sim-ttft": "3600"}))
    await until(lambda: simulator.stats.in_flight == 1)
    leaving.cancel()
    await watcher.calls(3)
    await post(live)
    told = [(one.status, one.complete, one.caller_gone) for one in watcher.outcomes]
    assert told == [
        (200, True, False),
        (502, False, False),
        (0, False, True),
        (429, False, False),
    ]
    errors = [one.error and one.error.code for one in watcher.outcomes]
    assert errors == [None, "upstream_closed", None, "rate_limit_exceeded"]


@pytest.mark.parametrize(
    ("kind", "first", "last"),
    [
        ("text/event-stream", sse(SAID), DONE),
        ("application/json", b'{"choices"', b":[]}"),
    ],
)
async def test_call_finished_runs_before_the_last_byte(
    gateway_for: GatewayFor, kind: str, first: bytes, last: bytes
) -> None:
    has_first = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.write(answer_of(first + last, content_type=kind)[: -len(last)])
        await has_first.wait()
        await connection.write(last)

    async with ScriptedWorker(script) as worker:
        live = await gateway_for(Patient, workers=[worker.url])
        patient = live.plugin(Patient)
        async with live.client.stream("POST", CHAT, json=BODY) as answer:
            coming = answer.aiter_raw()
            assert await anext(coming) == first
            has_first.set()
            await patient.begun.wait()
            rest = asyncio.create_task(read_all(coming))
            await live.client.get("/health")  # time enough for `rest` to see what was sent
            assert not rest.done()
            patient.may_end.set()
            assert await rest == last


async def read_all(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


async def test_call_finished_runs_before_an_error_response(gateway_for: GatewayFor) -> None:
    live = await gateway_for(Limit, Patient)
    live.plugin(Limit).room = 0
    patient = live.plugin(Patient)
    refused = asyncio.create_task(post(live))
    await patient.begun.wait()
    assert not refused.done()
    patient.may_end.set()
    assert (await refused).status_code == 429


async def test_routes_adds_routes_to_the_gateway(
    gateway_for: GatewayFor, simulator: Simulator
) -> None:
    live = await gateway_for(Pages, Witness)
    assert (await live.client.get("/hello")).text == "hello"
    assert (await live.client.post(f"/team{CHAT}", json=BODY)).status_code == 200
    assert (await live.client.get("/team/metrics")).status_code == 404
    assert [call.session_id for call in live.plugin(Witness).calls] == ["team"]
    assert simulator.stats.served == 1


async def test_check_session_id_rejects_an_id_of_a_new_session(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path, Capitals)
    for session_id, status in (("a", 400), ("A", 200)):
        answer = await live.client.post("/sessions", json={"session_id": session_id})
        assert answer.status_code == status
    made = await live.client.post("/sessions", json={})
    assert made.status_code == 400, "the id that would be made is rejected too"


async def test_session_put_takes_metadata_in_the_transaction_of_the_session(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path, Colours)
    for colour, status in (("red", 200), ("grey", 400)):
        made = {"session_id": colour, "metadata": {"colour": colour}}
        assert (await live.client.post("/sessions", json=made)).status_code == status
    assert (await live.client.post("/sessions", json={"session_id": "a"})).status_code == 200
    assert live.plugin(Colours).colours == {"red": ("red", 1)}
    assert (await live.client.get("/sessions/grey")).status_code == 404


async def test_session_ended_is_called_for_each_deleted_session(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path, Ends)
    assert (await live.client.delete("/sessions/one")).status_code == 200
    ids = {"session_ids": ["two", "three"]}
    assert (await live.client.post("/sessions/batch_delete", json=ids)).status_code == 200
    assert live.plugin(Ends).ended == [("one", None), ("two", None), ("three", None)]


async def test_lifespan_is_left_in_reverse_order(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "probes")
    config = Config(plugins=(entry(Beside), entry(BesideToo)))
    async with Gateway(config):
        assert caplog.messages == ["Beside entered", "BesideToo entered"]
    assert caplog.messages[2:] == ["BesideToo left", "Beside left"]


async def test_lifespan_that_fails_aborts_startup(
    gateway_for: GatewayFor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "probes")
    says = "test: plugin BesideToo did not start: OSError: the disk is full"
    with pytest.raises(ConfigError, match=says):
        await gateway_for(Beside, entry(BesideToo, fails=True))
    assert caplog.messages == ["Beside entered", "Beside left"], "what was entered is left"


async def test_reconfigure_takes_other_options(tmp_path: Path) -> None:
    async with reloadable(tmp_path / "gateway.yaml", Yielding) as running:
        plugin = running.live.plugin(Yielding)
        await running.changed((Yielding, {"name": "two"}))
        assert running.live.plugin(Yielding) is plugin
        assert plugin.config.name == "two"


async def test_migrations_create_and_change_plugin_tables(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    def insert(db: Database) -> None:
        db.execute("INSERT INTO notes (call_id) VALUES ('c-1')")

    path = str(tmp_path / "gateway.db")
    async with Gateway(
        Config(plugins=(entry(Notes),), storage=StorageSettings(path=path))
    ) as first:
        await first.storage.write(insert)
    second = await gateway_for(entry(Notes, newer=True), storage=StorageSettings(path=path))
    rows = await second.gateway.storage.read(lambda db: list(db.select("SELECT * FROM notes")))
    assert rows == [("c-1", "red")]


async def test_redact_trace_changes_what_is_stored(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await capturing(gateway_for, tmp_path, entry(Redactor, does="words"))
    assert (await call(live, "a")).json()["choices"][0]["message"]["content"]
    [trace] = (await live.client.get("/sessions/a/traces")).json()
    assert live.plugin(Redactor).given == [trace["trace_id"]]
    assert (trace["messages"], trace["raw_request"], trace["verdict"]) == ([], None, "COMPLETE")


async def test_trace_recorded_receives_the_stored_trace(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path, Reader)
    await call(live, "a")
    reader = live.plugin(Reader)
    await until(lambda: len(reader.traces) == 1)
    [stored] = (await live.client.get("/sessions/a/traces")).json()
    assert msgspec.to_builtins(reader.traces[0]) == stored


async def test_samples_is_called_at_each_scrape(gateway_for: GatewayFor) -> None:
    live = await gateway_for(Tolling, "metrics")
    for count in (1, 2):
        answer = await live.client.get("/metrics")
        assert f'gateway_tolls_total{{bell="big"}} {count}.0\n' in answer.text


async def test_health_hook_reports_a_degraded_state(gateway_for: GatewayFor) -> None:
    live = await gateway_for(Ailing)
    ailing = live.plugin(Ailing)
    assert (await live.client.get("/health")).json() == {"status": "ok"}
    ailing.reason = "it coughs"
    answer = (await live.client.get("/health")).json()
    assert answer == {"status": "degraded", "reason": "Ailing: it coughs"}
    ailing.reason = ""
    assert (await live.client.get("/health")).json() == {"status": "ok"}
    assert live.gateway.chains.failures.counts["Ailing", "health"] == 1


async def test_read_traces_returns_recorded_traces(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await capturing(gateway_for, tmp_path)
    for session_id in ("a", "b", "c"):
        await call(live, session_id)
    recorded = (await live.client.post("/traces/query", json={})).json()
    [hook] = live.gateway.plugins.hooks["read_traces"]
    times = [trace["timestamp"] for trace in recorded]

    def read(db: Database) -> list[object]:
        return [msgspec.to_builtins(trace) for trace in hook.run(db, times[1], times[2])]

    assert await live.gateway.storage.read(read) == [recorded[1]]


async def test_panels_are_tables_for_people(gateway_for: GatewayFor) -> None:
    live = await gateway_for(Offers)
    [hook] = live.gateway.hooks("panels")
    [fine, broken, log] = hook.run(live.gateway)
    assert [(one.name, one.scope) for one in (fine, broken, log)] == [
        ("fine", "monitor"),
        ("broken", "monitor"),
        ("log", "logs"),
    ]
    found = await fine.read(1)
    assert (len(found.rows), found.total) == (1, 9)


async def test_work_queue_runs_the_calls_of_a_plugin(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch")
    [hook] = live.gateway.hooks("work_queue")
    queue: WorkQueue = hook.run(live.gateway)
    body = msgspec.json.encode({"model": "sim", "prompt": "a", "max_tokens": 3, "seed": 1})
    work = NewWork(id="one", path="/v1/completions", model="sim", body=body)
    await queue.submit(Principal("evals"), [work])
    with pytest.raises(ConstraintViolated):
        await queue.submit(Principal("evals"), [work])
    item = await queue.wait("one", 10)
    assert item is not None
    assert (item.state, item.is_over, item.status, item.attempts) == ("completed", True, 200, 1)
    live_answer = await live.client.post("/v1/completions", json=msgspec.json.decode(body))
    answer = msgspec.json.decode(await queue.answer("one") or b"")
    assert answer["choices"] == live_answer.json()["choices"]
    assert not await queue.cancel("one")
    assert (await queue.find("two"), await queue.answer("two")) == (None, None)


def test_add_commands_adds_a_cli_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GATEWAY_PLUGINS", "support.plugins.hook_probes:Greeter")
    with pytest.raises(SystemExit) as ended:
        cli.main(["greet", "Ada"])
    assert not ended.value.code
    assert capsys.readouterr().out == "Hello Ada"
