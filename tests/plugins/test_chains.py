"""What a broken hook does: one that decides closes the way, one that watches harms nobody."""

import httpx
import pytest
from support.plugins.hook_probes import Breaking, Recorder, Witness

from gateway.testing import (
    DONE,
    GatewayFor,
    Live,
    ScriptedWorker,
    answer_of,
    entry,
    sse,
)

DECIDING = ["authenticate", "admit", "prepare", "handle", "filter_workers", "pick_worker"]
WATCHING = [
    "observe",
    "observer.started",
    "observer.data",
    "observer.event",
    "observer.delta",
    "attempt_finished",
    "observer.finished",
    "call_finished",
]
PLAIN = answer_of(b'{"choices": [{"index": 0, "message": {"content": "Hi"}}]}')
EVENT = sse({"choices": [{"index": 0, "delta": {"content": "Hi"}}]})
STREAM = answer_of(EVENT + EVENT + DONE, content_type="text/event-stream")

BREAKS = [
    (kind, hook, how)
    for kind in ("plain", "stream")
    for hook in WATCHING
    for how in ("breaks", "refuses", "is cancelled")
    if not (hook == "observer.event" and kind == "plain")  # a plain answer has no events
    if not (how == "is cancelled" and hook.startswith("observe"))  # these wait for nothing
]


async def post(live: Live) -> httpx.Response:
    body = {"model": "sim", "messages": []}
    return await live.client.post("/v1/chat/completions", json=body)


@pytest.mark.parametrize("how", ["breaks", "is cancelled"])
@pytest.mark.parametrize("hook", DECIDING)
async def test_deciding_hook_that_fails_rejects_the_call(
    gateway_for: GatewayFor, caplog: pytest.LogCaptureFixture, hook: str, how: str
) -> None:
    async with ScriptedWorker(PLAIN) as worker:
        live = await gateway_for(entry(Breaking, at=hook, how=how), Witness, workers=[worker.url])
        answers = [await post(live), await post(live)]
    for answer in answers:
        assert answer.status_code == 500
        assert answer.json() == {
            "error": {
                "message": "the plugin 'Breaking' failed while deciding on this call",
                "type": "server_error",
                "param": None,
                "code": "hook_failed",
            }
        }
    assert worker.connections == []
    assert caplog.messages == [f"plugin Breaking broke in {hook}; the call is refused"] * 2
    assert caplog.text.count("in _reach") == 2, "with the traceback"
    outcomes = live.plugin(Witness).outcomes
    assert [outcome.error and outcome.error.code for outcome in outcomes] == ["hook_failed"] * 2
    assert live.plugin(Breaking).seen[-1] == "call_finished", "it is recorded like any other"


@pytest.mark.parametrize("hook", DECIDING)
async def test_deciding_hook_rejects_the_call_by_a_call_error(
    gateway_for: GatewayFor, caplog: pytest.LogCaptureFixture, hook: str
) -> None:
    async with ScriptedWorker(PLAIN) as worker:
        breaking = entry(Breaking, at=hook, how="refuses")
        live = await gateway_for(breaking, workers=[worker.url])
        answer = await post(live)
    assert (answer.status_code, answer.headers["x-why"]) == (403, "a whim")
    assert answer.json()["error"]["code"] == "refused"
    assert worker.connections == []
    assert caplog.messages == []


@pytest.mark.parametrize(("kind", "hook", "how"), BREAKS)
async def test_observing_hook_that_fails_is_isolated(
    gateway_for: GatewayFor, caplog: pytest.LogCaptureFixture, kind: str, hook: str, how: str
) -> None:
    answer = PLAIN if kind == "plain" else STREAM
    async with ScriptedWorker(answer) as worker:
        breaking = entry(Breaking, at=hook, how=how)
        live = await gateway_for(breaking, Recorder, Witness, workers=[worker.url])
        answers = [await post(live), await post(live)]
    sent = answer.partition(b"\r\n\r\n")[2]
    assert [(one.status_code, one.content) for one in answers] == [(200, sent)] * 2
    assert live.gateway.chains.failures.counts == {("Breaking", hook): 2}
    assert [outcome.failures for outcome in live.plugin(Witness).outcomes] == [["Breaking"]] * 2
    [logged] = caplog.messages
    assert logged == f"plugin Breaking broke in {hook}; further failures of it are only counted"
    others = [name for name, _ in live.plugin(Recorder).seen]
    assert others.count("finished") == others.count("started") == 2, "the other plugins go on"


async def test_observer_method_that_raised_is_skipped_for_the_rest_of_a_call(
    gateway_for: GatewayFor,
) -> None:
    async with ScriptedWorker(STREAM) as worker:
        live = await gateway_for(entry(Breaking, at="observer.delta"), workers=[worker.url])
        await post(live)
    seen = live.plugin(Breaking).seen
    assert (seen.count("observer.delta"), seen.count("observer.event")) == (1, 3)


async def test_finish_hooks_run_for_attempt_then_observer_then_call(
    gateway_for: GatewayFor,
) -> None:
    async with ScriptedWorker(STREAM) as worker:
        live = await gateway_for(Breaking, workers=[worker.url])
        await post(live)
    seen = [one for one in live.plugin(Breaking).seen if one not in WATCHING[2:5]]
    assert seen == [
        "authenticate",
        "admit",
        "prepare",
        "observe",
        "handle",
        "filter_workers",
        "pick_worker",
        "observer.started",
        "attempt_finished",
        "observer.finished",
        "call_finished",
    ]
