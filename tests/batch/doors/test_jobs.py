"""Jobs: faults of section 3 of the contract that concern them, by their numbers."""

import time
import uuid
from typing import Any

import msgspec
import pytest
from gateway_plugins.batch.running import upkeep
from support.callers.seen_request import seen
from support.gateways.batch_doors import JOBS, MESSAGES, PROMPT, code, over, submit
from support.plugins.samplers import header_of

from gateway.testing import GatewayFor, ScriptedWorker, answer_of, entry

JOB = {"model": "sim", "input": "Hello", "max_tokens": 5, "seed": 3}


@pytest.mark.parametrize(
    ("options", "path", "body"),
    [
        ({}, "/v1/chat/completions", MESSAGES),
        ({"jobs_as": "completion"}, "/v1/completions", PROMPT),
    ],
)
async def test_fault_3_2_input_of_a_job_is_what_the_engine_gets(
    gateway_for: GatewayFor, options: dict[str, Any], path: str, body: dict[str, Any]
) -> None:
    live = await gateway_for(entry("batch", **options))
    begun = time.time()
    accepted = await live.client.post(JOBS, json={**JOB, "priority": 200, "estimate_s": 2})
    assert accepted.status_code == 200
    job_id = accepted.json()["job_id"]
    assert accepted.json() == {"job_id": str(uuid.UUID(job_id))}
    shown = await over(live, f"{JOBS}/{job_id}")
    expected = (await live.client.post(path, json=body)).json()
    result = msgspec.json.decode(shown.pop("result"))
    unlike = {"id", "created"}
    assert {k: v for k, v in result.items() if k not in unlike} == {
        k: v for k, v in expected.items() if k not in unlike
    }
    times = shown.pop("submit_ts"), shown.pop("started_ts"), shown.pop("finished_ts")
    assert begun <= times[0] <= times[1] <= times[2] <= time.time()
    assert times[2] < shown.pop("expires_at")
    assert shown == {
        "job_id": job_id,
        "model": "sim",
        "input": "Hello",
        "priority": 100,
        "estimate_s": 2.0,
        "status": "completed",
        "retry_count": 0,
        "attempt": None,
        "attempts": 1,
        "not_before": None,
        "last_error": None,
    }


async def test_fault_3_13_job_s_input_and_other_members_arrive_as_they_came(
    gateway_for: GatewayFor,
) -> None:
    async with ScriptedWorker(answer_of(b"{}")) as worker:
        live = await gateway_for("batch", workers=[worker.url])
        given = b'{"model":"sim", "input": "\\u00e9 \xc3\xa9","estimate_s": 1,"x":{"y" : 1e3}}'
        answer = await live.client.post(JOBS, content=given)
        shown = await over(live, f"{JOBS}/{answer.json()['job_id']}")
    assert shown["input"] == "é é"
    request = seen(worker.requests[0])
    assert request.target == "/v1/chat/completions"
    content = b'[{"role":"user","content":"\\u00e9 \xc3\xa9"}]'
    assert request.body == b'{"model":"sim","x":{"y" : 1e3},"messages":' + content + b"}"


async def test_job_has_the_defaults_of_the_replaced_system(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch", workers=[])
    url = await submit(live, JOBS, {"model": "sim", "input": ""})
    shown = (await live.client.get(url)).json()
    assert (shown["priority"], shown["estimate_s"], shown["input"]) == (1, 5.0, "")
    assert shown["status"] == "queued"
    assert {"started_ts", "finished_ts", "result", "error"}.isdisjoint(shown)
    canceled = (await live.client.delete(url)).json()
    assert (canceled["status"], canceled["retry_count"]) == ("canceled", 0)
    assert code(await live.client.delete(url)) == (409, None, "conflict")


async def test_failed_job_says_why(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch")
    shown = await over(live, await submit(live, JOBS, {**JOB, "max_tokens": -1}))
    assert shown["status"] == "error"
    assert (shown["error_type"], shown["error_code"]) == ("BadRequestError", "400")
    assert "max_tokens must be at least 1" in shown["error"]


async def test_expired_job_says_so(
    gateway_for: GatewayFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "LOOK", 0.01)
    live = await gateway_for("batch", workers=[])
    shown = await over(live, await submit(live, f"{JOBS}?deadline=0.01", JOB))
    assert (shown["error_type"], shown["error_code"]) == ("server_error", "batch_expired")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": ["Hello"]}, "input"),
        ({"messages": []}, "messages"),
        ({"estimate_s": "5"}, "estimate_s"),
        ({"priority": "high"}, "priority"),
        ({"model": 1}, "model"),
    ],
)
async def test_bad_job_is_refused_at_once(
    gateway_for: GatewayFor, fields: dict[str, object], param: str
) -> None:
    live = await gateway_for("batch", workers=[])
    answer = await live.client.post(JOBS, json={**JOB, **fields})
    assert code(answer) == (400, param, "invalid_request")
    without = await live.client.post(JOBS, json={"model": "sim"})
    assert code(without) == (400, "input", "invalid_request")


async def test_same_idempotency_key_creates_one_job(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch", workers=[])
    key = {"idempotency-key": "k"}
    assert await submit(live, JOBS, JOB, **key) == await submit(live, JOBS, JOB, **key)
    other = await live.client.post(JOBS, json={**JOB, "input": "other"}, headers=key)
    assert code(other) == (409, None, "conflict")


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (f"00-{'ab' * 16}-{'cd' * 8}-01", f"00-{'ab' * 16}-{'cd' * 8}-01"),
        ("00-" + "a" * 600, None),
        (None, None),
    ],
    ids=["valid", "too long", "none"],
)
async def test_call_of_a_job_is_part_of_the_trace_of_its_submitter(
    gateway_for: GatewayFor, given: str | None, sent: str | None
) -> None:
    headers = {} if given is None else {"traceparent": given}
    async with ScriptedWorker(answer_of(b'{"choices": []}')) as worker:
        live = await gateway_for("batch", workers=[worker.url])
        accepted = await live.client.post(JOBS, json=JOB, headers=headers)
        await over(live, f"{JOBS}/{accepted.json()['job_id']}")
    asked = [one for one in worker.requests if one.startswith(b"POST /v1/chat")]
    assert [header_of(one, b"traceparent") for one in asked] == [sent]
