"""What callers are told by plugins that know nothing of gRPC, and when their clients ask again."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from support.gateways.with_keys import KeysOnDisk, key
from support.grpc.asking import MESSAGES, Caller, Ended, Metadata, chat
from support.grpc.stage import Play, Stage, delta, refused, staged, streamed, whole
from support.plugins.recording_plugin import until

from gateway.testing import ScriptedConnection, sse

pytestmark = pytest.mark.asyncio(loop_scope="module")

CANARY = "canary-91c3"

BREAKS = f'''
from gateway import Call, hookimpl

class Breaks:
    @hookimpl
    def prepare(self, call: Call) -> None:
        if call.model == "hook":
            raise RuntimeError("{CANARY}")
'''

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"

RETRIES = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 3,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "0.1s",
                    "backoffMultiplier": 1,
                    "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
                },
            }
        ]
    }
)


async def hangs(connection: ScriptedConnection) -> None:
    await connection.wait_closed()


class Flaky:
    """Refuses the first call, and takes the next one."""

    def __init__(self) -> None:
        self.asked = 0

    async def __call__(self, connection: ScriptedConnection) -> None:
        self.asked += 1
        soon = refused("503 No", b"", "retry-after-ms: 20")
        await connection.write(soon if self.asked == 1 else whole("ok"))


FLAKY = Flaky()

PLAYS: dict[str, Play] = {
    "good": whole("a"),
    "hang": hangs,
    "flaky": FLAKY,
    "broken": streamed(sse(delta("a"))),
    "final": refused("429 No", b"", "retry-after-ms: 20", "x-should-retry: false"),
    "wrong": refused("400 No"),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    folder = tmp_path_factory.mktemp("table")
    (folder / "breaks.py").write_text(BREAKS)
    KeysOnDisk(folder / "keys.json").write(
        key("all", "all", scopes=["realtime"]),
        key("few", "few", scopes=["realtime"]),
        key("poor", "poor", scopes=["realtime"]),
        key("one", "one", scopes=["realtime"], models=["good"]),
        key("sees", "sees", scopes=["monitor"]),
    )
    async with staged(
        PLAYS,
        folder,
        f"auth: {{keys_file: {folder / 'keys.json'}}}",
        "sessions",
        "limits: {keys: {few: {requests_per_minute: 2}, poor: {tokens_per_day: 2}}}",
        "backpressure: {max_in_flight_per_worker: 2, queue: {max_length: 0}}",
        f"{folder / 'breaks.py'}",
        server_limits__max_body_bytes="200000",
        log_level="debug",
    ) as opened:
        yield opened


async def ask(stage: Stage, request: Any, token: str | None = "all", *more: Any) -> Ended:
    metadata: Metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    with Caller(stage.port) as caller:
        found = await asyncio.to_thread(caller.ask, request, (*metadata, *more))
    if found.code != "OK":
        assert found.request_id == found.facts["request_id"]
        assert found.details["ErrorInfo"].domain == "llm-call-gateway"
        assert found.size < 4_096
    return found


GARBAGE = b"\xff" * 40


@pytest.mark.parametrize(
    ("token", "request_", "code", "reason"),
    [
        (None, chat("good"), "UNAUTHENTICATED", "INVALID_API_KEY"),
        ("unknown", chat("good"), "UNAUTHENTICATED", "INVALID_API_KEY"),
        ("sees", chat("good"), "PERMISSION_DENIED", "MISSING_SCOPE"),
        ("one", chat("hang"), "PERMISSION_DENIED", "MODEL_NOT_ALLOWED"),
        ("all", GARBAGE, "INVALID_ARGUMENT", "INVALID_REQUEST"),
        ("all", b"", "INVALID_ARGUMENT", "INVALID_REQUEST"),
        ("all", chat("good", "x" * 199_950), "RESOURCE_EXHAUSTED", "BODY_TOO_LARGE"),
        ("all", chat("hook"), "INTERNAL", "HOOK_FAILED"),
    ],
)
async def test_refusals_that_a_retry_does_not_help(
    stage: Stage, token: str | None, request_: Any, code: str, reason: str
) -> None:
    seen = len(stage.worker.requests)
    found = await ask(stage, request_, token)
    assert (found.code, found.reason, found.pushback, found.retry) == (code, reason, "-1", None)
    assert CANARY not in found.message
    assert len(stage.worker.requests) == seen


@pytest.mark.parametrize("request_", [GARBAGE, b"", chat("good", "x" * 300_000)])
async def test_fault_13_without_a_key_the_request_is_not_looked_at(
    stage: Stage, request_: Any
) -> None:
    found = await ask(stage, request_, None)
    assert (found.code, found.reason) == ("UNAUTHENTICATED", "INVALID_API_KEY")


async def test_several_keys_are_refused(stage: Stage) -> None:
    found = await ask(stage, chat("good"), "all", ("authorization", "Bearer few"))
    assert (found.code, found.reason) == ("UNAUTHENTICATED", "INVALID_API_KEY")
    assert "several keys" in found.message
    assert (await ask(stage, chat("good"), None, ("x-api-key", "all"))).code == "OK"


@pytest.mark.parametrize(
    ("request_", "field"),
    [(chat(""), "model"), (chat("good", max_tokens=-1), "max_tokens")],
)
async def test_wrong_fields_are_named(stage: Stage, request_: Any, field: str) -> None:
    found = await ask(stage, request_)
    assert (found.code, found.reason) == ("INVALID_ARGUMENT", "INVALID_REQUEST")
    assert found.details["BadRequest"].field_violations[0].field == field


async def test_limits_and_budgets_of_a_key(stage: Stage) -> None:
    _, _, found = [await ask(stage, chat("good"), "few") for _ in range(3)]
    assert (found.code, found.reason) == ("RESOURCE_EXHAUSTED", "REQUESTS_PER_MINUTE")
    assert found.retry is not None
    assert 0 < found.retry <= 59.001
    assert int(found.pushback or 0) == round(found.retry * 1000)
    assert found.details["QuotaFailure"].violations[0].subject == "requests_per_minute"
    found = await ask(stage, chat("good"), "poor")
    assert (found.code, found.reason) == ("RESOURCE_EXHAUSTED", "TOKENS_PER_DAY")
    assert found.pushback == "-1"  # the day is long
    assert "QuotaFailure" in found.details


async def test_fault_16_a_full_queue_refuses_at_once(stage: Stage) -> None:
    line = (("authorization", "Bearer all"),)
    with Caller(stage.port) as caller:
        held = [caller.stream(chat("hang"), line, timeout=None) for _ in range(2)]
        await until(lambda: sum(b'"hang"' in one for one in stage.worker.requests) == 2)
        found = [await ask(stage, chat("good")) for _ in range(3)]
        for one in held:
            one.cancel()
    assert [(one.code, one.reason) for one in found] == [("RESOURCE_EXHAUSTED", "QUEUE_FULL")] * 3
    assert min(one.seconds for one in found) < 0.05
    assert found[0].retry is not None
    assert found[0].pushback == str(round(found[0].retry * 1000))
    assert "QuotaFailure" not in found[0].details
    await until(lambda: not stage.worker.connections_open)


async def test_fault_12_what_a_request_says_of_itself_reaches_the_worker(stage: Stage) -> None:
    request = chat("good")
    request.meta.request_id, request.meta.session_id = "r-1", "s-1"
    request.meta.trace_id, request.meta.user_id = TRACE, "u-1"
    found = await ask(stage, request)
    assert (found.code, found.request_id) == ("OK", "r-1")
    sent = stage.worker.requests[-1].split(b"\r\n\r\n")[0].decode()
    assert {"x-request-id: r-1", "x-session-id: s-1", "x-user-id: u-1"} < set(sent.split("\r\n"))
    assert f"traceparent: 00-{TRACE}-" in sent
    found = await ask(stage, request, "all", ("x-request-id", "r-2"))
    assert found.request_id == "r-2"


async def test_metadata_of_a_trace_reaches_the_worker(stage: Stage) -> None:
    parent = f"00-{TRACE}-{'cd' * 8}-01"
    given = (("traceparent", parent), ("tracestate", "a=1"), ("baggage", "k=v"))
    assert (await ask(stage, chat("good"), "all", *given)).code == "OK"
    sent = stage.worker.requests[-1].split(b"\r\n\r\n")[0].decode().split("\r\n")
    assert {f"{name}: {value}" for name, value in given} < set(sent)


async def test_fault_15_health_needs_no_key(stage: Stage) -> None:
    def asked(service: str) -> Any:
        request = MESSAGES.type("grpc.health.v1.HealthCheckRequest")(service=service)
        call = caller.channel.unary_unary("/grpc.health.v1.Health/Check").future(
            request.SerializeToString(), timeout=10
        )
        return call.code().name if call.exception() else response.FromString(call.result()).status

    response = MESSAGES.type("grpc.health.v1.HealthCheckResponse")
    with Caller(stage.port) as caller:
        found = [
            await asyncio.to_thread(asked, name) for name in ("", "llm.v1.LlmService", "unknown")
        ]
        watching = caller.channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=10)
        first = response.FromString(await asyncio.to_thread(next, watching))
        watching.cancel()
    assert (*found, first.status) == (1, 1, "NOT_FOUND", 1)


async def test_clients_ask_again_before_the_first_message_and_never_after(stage: Stage) -> None:
    line = (("authorization", "Bearer all"),)

    async def asked(model: str) -> tuple[Ended, int]:
        seen = len(stage.worker.requests)
        found = await asyncio.to_thread(caller.ask, chat(model), line)
        return found, len(stage.worker.requests) - seen

    with Caller(stage.port, service_config=RETRIES) as caller:
        found, times = await asked("flaky")
        assert (found.code, found.text, times) == ("OK", "ok", 2)
        found, times = await asked("broken")
        assert (found.code, found.text, found.pushback, times) == ("UNAVAILABLE", "a", "-1", 1)
        found, times = await asked("final")
        assert (found.code, found.pushback, times) == ("RESOURCE_EXHAUSTED", "-1", 1)
        assert (await asked("wrong"))[1] == 1


async def test_no_text_of_callers_or_hooks_is_in_the_log(stage: Stage) -> None:
    await ask(stage, chat("good", CANARY))
    assert CANARY.encode() not in _without_said(stage.process.log)
    assert b"Traceback" not in stage.process.log


def _without_said(log: bytes) -> bytes:
    """Return the log without the texts of exceptions: at level debug the log has those of hooks."""
    return b"\n".join(line for line in log.splitlines() if b'"said"' not in line)
