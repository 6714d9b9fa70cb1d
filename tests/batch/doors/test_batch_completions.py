"""Completions that may wait: faults of section 3 of the contract, by their numbers."""

import asyncio
import json
import time
from typing import Any

import msgspec
import pytest
from gateway_plugins.batch import Batch
from gateway_plugins.batch.doors.completions import without
from hypothesis import given
from hypothesis import strategies as st
from support.callers.seen_request import seen
from support.gateways.batch_doors import (
    CHAT,
    COMPLETIONS,
    MESSAGES,
    PROMPT,
    code,
    holding,
    over,
    submit,
)
from support.plugins.recording_plugin import until
from support.workers.failing_worker import refusal

from gateway.testing import GatewayFor, ScriptedWorker, answer_of, entry

DOORS = [
    (COMPLETIONS, "/v1/completions", PROMPT, "cmpl-"),
    (CHAT, "/v1/chat/completions", MESSAGES, "chatcmpl-"),
]


@pytest.mark.parametrize(("path", "realtime", "body", "prefix"), DOORS)
async def test_fault_3_1_poll_loop_ends_with_the_realtime_answer(
    gateway_for: GatewayFor, path: str, realtime: str, body: dict[str, Any], prefix: str
) -> None:
    """ "Poll the `status_url` from the 202 response until `status` becomes `completed`." """
    live = await gateway_for("batch")
    begun = int(time.time())
    accepted = await live.client.post(path, json=body)
    assert accepted.status_code == 202
    answer = accepted.json()
    assert answer == {
        "id": answer["id"],
        "status": "queued",
        "status_url": f"{path}/{answer['id']}",
    }
    assert answer["id"].startswith(prefix)
    assert len(answer["id"]) == len(prefix) + 24
    async with asyncio.timeout(20):
        while answer["status"] != "completed":
            answer = (await live.client.get(accepted.json()["status_url"])).json()
    expected = (await live.client.post(realtime, json=body)).json()
    assert (answer.pop("id"), answer.pop("attempts")) == (accepted.json()["id"], 1)
    assert begun <= answer.pop("created") <= answer.pop("finished") < answer.pop("expires_at")
    assert answer.pop("upstream_id")
    assert answer.pop("status") == "completed"
    assert answer == {k: v for k, v in expected.items() if k not in ("id", "created")}


async def test_fault_3_3_items_that_fit_run_and_the_others_know_their_place(
    gateway_for: GatewayFor,
) -> None:
    live = await gateway_for("batch", workers=[])
    urls = [
        await submit(live, COMPLETIONS, {**PROMPT, "priority": priority})
        for priority in (0, 5, 0, 101, 100)
    ]
    objects = [(await live.client.get(url)).json() for url in urls]
    assert [one["position_estimate"] for one in objects] == [3, 2, 4, 0, 1]
    [shown] = {one["status"] for one in objects}
    assert shown == "queued"
    expected = {"attempt": None, "attempts": 0, "not_before": None, "last_error": None}
    assert expected.items() <= objects[0].items()
    assert 86_390 < objects[0]["expires_at"] - time.time() < 86_401


async def test_running_item_shows_its_attempt_and_no_place(gateway_for: GatewayFor) -> None:
    async with holding() as (worker, free):
        live = await gateway_for("batch", workers=[worker.url])
        url = await submit(live, COMPLETIONS, PROMPT)
        await until(lambda: len(worker.requests) == 1)
        shown = (await live.client.get(url)).json()
        assert (shown["status"], shown["position_estimate"]) == ("running", None)
        assert (shown["attempt"], shown["attempts"]) == (1, 1)
        free.set()
        assert (await over(live, url))["upstream_id"] == "its-own"


ODD = (
    b'{ "model" :\t"sim","x":[1.0,  2e3,-0] ,"tools":null,"prompt":"\\u00e9\\/ \xc3\xa9",\r\n'
    b'"stop":"a","guided_json":{"a" : {}},"chat_template_kwargs":{"z":true}, "stream":false}'
)


async def test_fault_3_13_body_arrives_as_it_came(gateway_for: GatewayFor) -> None:
    async with ScriptedWorker(answer_of(b"{}")) as worker:
        live = await gateway_for("batch", workers=[worker.url])
        for body in (ODD, b'{"priority":  7 ,' + ODD[1:]):
            answer = await live.client.post(COMPLETIONS, content=body)
            await over(live, answer.json()["status_url"])
    plain, ranked = (seen(request).body for request in worker.requests)
    assert plain == ODD
    raw = [msgspec.json.decode(body, type=dict[str, msgspec.Raw]) for body in (ODD, ranked)]
    assert [*raw[0].items()] == [*raw[1].items()]


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), ANY_JSON), ANY_JSON, st.sampled_from([None, 1, "\t"]))
def test_body_without_its_priority_has_all_other_members(
    members: dict[str, object], priority: object, indent: int | str | None
) -> None:
    body = json.dumps({**members, "priority": priority}, indent=indent).encode()
    try:
        raw = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except msgspec.DecodeError:
        return  # half of a surrogate pair: refused
    members.pop("priority", None)
    assert json.loads(without(raw, "priority")) == json.loads(json.dumps(members))


async def test_fault_3_14_stream_is_accepted_and_run_unstreamed(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch")
    options = {"stream": True, "stream_options": {"include_usage": True}}
    shown = await over(live, await submit(live, CHAT, {**MESSAGES, **options}))
    plain = await over(live, await submit(live, CHAT, MESSAGES))
    assert shown["status"] == "completed"
    assert shown["choices"] == plain["choices"]


async def test_fault_3_14_body_and_queue_are_limited(gateway_for: GatewayFor) -> None:
    options = entry("batch", max_body_bytes=200, max_queued=3, max_queued_per_key=2)
    live = await gateway_for(options, workers=[])
    large = await live.client.post(COMPLETIONS, json={**PROMPT, "prompt": "x" * 200})
    assert code(large) == (413, None, "body_too_large")
    assert "max_body_bytes" in large.json()["error"]["message"]
    for _ in range(2):
        await submit(live, COMPLETIONS, PROMPT)
    full = await live.client.post(COMPLETIONS, json=PROMPT)
    assert code(full) == (429, None, "rate_limit_exceeded")
    assert "max_queued_per_key" in full.json()["error"]["message"]


async def test_fault_3_14_priority_is_clamped(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch", workers=[])
    for priority in (10**30, -(10**30), None):
        await submit(live, COMPLETIONS, {**PROMPT, "priority": priority})
    await submit(live, COMPLETIONS, PROMPT)
    listed = (await live.client.get("/v1/batch")).json()["data"]
    assert [one["priority"] for one in listed] == [1, 1, -100, 100]


BAD: list[tuple[bytes, tuple[int, str | None, str], str]] = [
    (b"", (400, None, "invalid_json"), "truncated"),
    (b'{"model": "sim", }', (400, None, "invalid_json"), "byte 17"),
    (b'{"model": "sim", "prompt": "\xff"}', (400, None, "invalid_json"), "position 28"),
    (b'{"model": "sim", "prompt": "\\ud800"}', (400, None, "invalid_json"), "position 28"),
    (b'\xef\xbb\xbf{"model": "sim"}', (400, None, "invalid_json"), "byte order mark"),
    (b"[" * 10_000, (400, None, "invalid_request"), "not what is expected"),
    (b'{"a":' + b"[" * 10_000, (400, None, "invalid_json"), ""),
    (b'"model"', (400, None, "invalid_request"), "mapping"),
    (b"{}", (400, "model", "invalid_request"), "no model"),
    (b'{"model": ""}', (400, "model", "invalid_request"), "no model"),
    (b'{"model": null}', (400, "model", "invalid_request"), "no model"),
    (b'{"model": ["sim"]}', (400, "model", "invalid_request"), "Expected `str`"),
    (b'{"model": "sim", "priority": 1.5}', (400, "priority", "invalid_request"), "`int`"),
    (b'{"model": "sim", "priority": true}', (400, "priority", "invalid_request"), "`int`"),
]


@pytest.mark.parametrize(("body", "expected", "named"), BAD, ids=range(len(BAD)))
async def test_bad_body_is_refused_at_once(
    gateway_for: GatewayFor, body: bytes, expected: tuple[int, str | None, str], named: str
) -> None:
    live = await gateway_for("batch", workers=[])
    answer = await live.client.post(COMPLETIONS, content=body)
    assert code(answer) == expected
    assert named in answer.json()["error"]["message"]
    assert (await live.client.get("/v1/batch")).json()["data"] == []


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("deadline=0", "deadline"),
        ("deadline=nan", "deadline"),
        ("deadline=inf", "deadline"),
        ("deadline=604801", "deadline"),
        ("dead=1", "dead"),
    ],
)
async def test_bad_query_is_refused(gateway_for: GatewayFor, query: str, param: str) -> None:
    live = await gateway_for("batch", workers=[])
    answer = await live.client.post(f"{COMPLETIONS}?{query}", json=PROMPT)
    assert code(answer) == (400, param, "invalid_request")


async def test_error_of_the_worker_is_kept_and_not_tried_again(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch")
    shown = await over(live, await submit(live, COMPLETIONS, {**PROMPT, "max_tokens": -1}))
    realtime = await live.client.post("/v1/completions", json={**PROMPT, "max_tokens": -1})
    assert (shown["status"], shown["attempts"], shown["upstream_status"]) == ("error", 1, 400)
    assert shown["upstream_error"] == realtime.json()
    assert shown["error"] == realtime.json()["error"]["message"]


async def test_answer_that_is_no_object_is_a_text(gateway_for: GatewayFor) -> None:
    async with ScriptedWorker(answer_of(b"<html>\xff")) as worker:
        live = await gateway_for("batch", workers=[worker.url])
        shown = await over(live, await submit(live, COMPLETIONS, PROMPT))
    assert (shown["status"], shown["body"]) == ("completed", "<html>\ufffd")


async def test_item_that_is_tried_again_says_when_and_why(gateway_for: GatewayFor) -> None:
    async with ScriptedWorker(refusal(500)) as worker:
        live = await gateway_for(entry("batch", min_pause=50.0), workers=[worker.url])
        url = await submit(live, COMPLETIONS, PROMPT)
        shown: dict[str, Any] = {"not_before": None}
        async with asyncio.timeout(30):
            while shown["not_before"] is None:
                shown = (await live.client.get(url)).json()
    assert (shown["status"], shown["attempt"], shown["attempts"]) == ("queued", None, 1)
    assert 45 < shown["not_before"] - time.time() < 65
    assert shown["last_error"]["code"] == "500"


async def test_item_ends_at_its_deadline(gateway_for: GatewayFor) -> None:
    async with holding() as (worker, _):
        live = await gateway_for(entry("batch", deadline=0.2), workers=[worker.url])
        url = await submit(live, COMPLETIONS, PROMPT)
        later = await submit(live, f"{COMPLETIONS}?deadline=1000", PROMPT)
        shown = await over(live, url)
        assert (shown["status"], shown["last_error"]["code"]) == ("error", "batch_expired")
        assert (await live.client.get(later)).json()["status"] == "running"


async def test_same_idempotency_key_creates_one_item(gateway_for: GatewayFor) -> None:
    async with ScriptedWorker(answer_of(b"{}")) as worker:
        live = await gateway_for("batch", workers=[worker.url])
        headers = {"idempotency-key": "k"}
        first = await live.client.post(COMPLETIONS, json=PROMPT, headers=headers)
        await over(live, first.json()["status_url"])
        again = await live.client.post(COMPLETIONS, json=PROMPT, headers=headers)
        assert again.status_code == 202
        assert again.json() == {**first.json(), "status": "completed"}
        for path, body in (
            (COMPLETIONS, {**PROMPT, "seed": 4}),
            (CHAT, PROMPT),
            (f"{COMPLETIONS}?deadline=5", PROMPT),
        ):
            other = await live.client.post(path, json=body, headers=headers)
            assert code(other) == (409, None, "conflict")
        for key in ("", "k" * 256):
            bad = await live.client.post(COMPLETIONS, json=PROMPT, headers={"idempotency-key": key})
            assert code(bad) == (400, None, "invalid_request")
    assert len(worker.requests) == 1


async def test_long_poll_returns_when_the_item_ends(gateway_for: GatewayFor) -> None:
    async with holding() as (worker, free):
        live = await gateway_for("batch", workers=[worker.url])
        url = await submit(live, COMPLETIONS, PROMPT)
        await until(lambda: len(worker.requests) == 1)
        assert (await live.client.get(f"{url}?wait=0.01")).json()["status"] == "running"
        waiting = asyncio.create_task(over(live, url))
        await until(lambda: bool(live.plugin(Batch)._engine()._waiting))
        free.set()
        assert (await waiting)["status"] == "completed"
        for wait in ("-1", "nan", "soon"):
            bad = await live.client.get(f"{url}?wait={wait}")
            assert code(bad) == (400, "wait", "invalid_request")
        assert (await live.client.get(f"{url}?wait=inf")).json()["status"] == "completed"


async def test_long_poll_ends_with_its_caller_and_with_the_gateway(
    gateway_for: GatewayFor,
) -> None:
    live = await gateway_for("batch", workers=[])
    url = await submit(live, COMPLETIONS, PROMPT)
    waiting = live.plugin(Batch)._engine()._waiting
    leaving = asyncio.create_task(live.client.get(f"{url}?wait=60"))
    await until(lambda: bool(waiting))
    leaving.cancel()
    await until(lambda: not waiting)
    staying = asyncio.create_task(live.client.get(f"{url}?wait=60"))
    await until(lambda: bool(waiting))
    await live.gateway.drain(0)
    async with asyncio.timeout(30):
        await staying
    assert (await staying).json()["status"] == "queued"


async def test_delete_cancels_queued_and_running_items(gateway_for: GatewayFor) -> None:
    async with holding() as (worker, _):
        live = await gateway_for("batch", workers=[worker.url])
        url = await submit(live, COMPLETIONS, PROMPT)
        await until(lambda: len(worker.requests) == 1)
        canceled = await live.client.delete(url)
        assert canceled.status_code == 200
        assert canceled.json()["status"] == "canceled"
        assert canceled.json() == (await live.client.get(url)).json()
        await until(lambda: worker.connections_open == 0)
        assert code(await live.client.delete(url)) == (409, None, "conflict")
    live = await gateway_for("batch", workers=[])
    url = await submit(live, COMPLETIONS, PROMPT)
    assert (await live.client.delete(url)).json()["attempts"] == 0
    assert (await live.client.get(url)).json()["status"] == "canceled"


async def test_item_is_found_by_its_own_door_only(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch", workers=[])
    url = await submit(live, COMPLETIONS, PROMPT)
    item_id = url.rpartition("/")[2]
    for other in (f"{CHAT}/{item_id}", f"/v1/jobs/{item_id}", f"{url}x", f"{COMPLETIONS}/%00"):
        assert code(await live.client.get(other)) == (404, None, "not_found")
        assert code(await live.client.delete(other)) == (404, None, "not_found")
    assert code(await live.client.get(COMPLETIONS)) == (405, None, "invalid_request")
