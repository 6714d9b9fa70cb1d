"""What plugin authors test with does what it says, and leaves nothing behind."""

import asyncio
import gc
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import msgspec
import pytest
import trustme
from support.paths import DOCS
from support.plugins.hook_probes import Beside, BesideToo, Door, Recorder
from support.plugins.recording_plugin import until

from gateway import ConfigError
from gateway.config import Config, Worker
from gateway.simulator import Simulator
from gateway.testing import (
    DONE,
    NO_PROBES,
    GatewayFor,
    RecordedCall,
    ScriptedConnection,
    ScriptedWorker,
    answer_of,
    drive,
    entry,
    live,
    make_call,
    sse,
)

GUIDE = DOCS / "hooks.md"
CHAT = "/v1/chat/completions"
EVENT = sse({"choices": [{"index": 0, "delta": {"content": "Hi"}}]})
CHUNKED = b"Transfer-Encoding: Chunked\r\n\r\n"
REQUEST = b"POST /v1/x HTTP/1.1\r\nhost: h\r\n"


async def test_make_call_builds_a_call_from_its_arguments() -> None:
    call = make_call({"model": "m"}, headers={"X-Session-ID": "s"}, query=b"a=1")
    assert (call.method, call.path, call.query) == ("POST", CHAT, b"a=1")
    assert (call.header("x-session-id"), call.model) == ("s", "m")
    assert await call.json() == {"model": "m"}
    assert (await make_call().json())["messages"] == [{"role": "user", "content": "Hello"}]
    assert make_call(b"\x00", path="/v1/x").body.data == b"\x00"


def test_make_call_fixture_is_the_function(make_call: Callable[..., RecordedCall]) -> None:
    assert make_call(session_id="s").session_id == "s"


async def test_recording_caller_records_the_response_and_can_be_full() -> None:
    caller = make_call().caller
    caller.start(200, [(b"a", b"b")])
    assert caller.write(b"1")
    caller.is_full = True
    assert not caller.write(b"2")
    assert not caller.is_ended
    await caller.end(b"3")
    assert (caller.status, caller.headers, caller.body) == (200, [(b"a", b"b")], b"123")
    assert (caller.chunks, caller.is_ended, caller.is_cut) == ([b"1", b"2", b"3"], True, False)


def test_sse_encodes_events() -> None:
    assert sse({"a": 1}, "[DONE]") == b'data: {"a":1}\n\n' + DONE


async def test_drive_passes_a_stream_to_the_observer() -> None:
    recorder = Recorder()
    call = await drive(recorder, EVENT[:20], EVENT[20:] + DONE)
    assert [name for name, _ in recorder.seen] == [
        *("started", "data", "data"),
        *("event", "delta", "event", "delta"),
        "finished",
    ]
    assert recorder.chunks == [EVENT[:20], EVENT[20:] + DONE]
    assert (call.caller.body, call.caller.is_ended) == (EVENT + DONE, True)
    assert call.outcome.complete


async def test_drive_passes_a_plain_response_to_the_observer() -> None:
    recorder = Recorder()
    body = msgspec.json.encode({"choices": [{"message": {"content": "Hi"}}]})
    call = await drive(
        recorder, body[:9], body[9:], content_type="application/json", call=make_call({})
    )
    assert recorder.seen == [
        ("started", 200),
        ("data", body[:9]),
        ("data", body[9:]),
        ("delta", ["Hi"]),
        ("finished", True),
    ]
    assert call.caller.body == body


async def test_drive_with_broken_ends_in_an_upstream_error() -> None:
    recorder = Recorder()
    call = await drive(recorder, EVENT, broken=True)
    assert recorder.seen[-1] == ("finished", False)
    assert call.caller.is_cut
    assert call.outcome.error is not None
    assert call.outcome.error.code == "upstream_closed"


class Wrong:
    def delta(self, delta: object) -> None:
        raise ValueError("wrong")


async def test_drive_raises_the_observer_s_exception() -> None:
    with pytest.raises(ValueError, match="wrong"):
        await drive(Wrong(), EVENT, DONE)


async def test_scripted_worker_repeats_fixed_bytes_for_each_request() -> None:
    async with (
        ScriptedWorker(answer_of(b"{}", status="418 I'm a teapot")) as worker,
        httpx.AsyncClient(base_url=worker.url) as client,
    ):
        answers = [await client.post("/a", content=b"1"), await client.get("/b")]
        assert worker.connections_open == len(worker.connections) == 1
    assert [(answer.status_code, answer.content) for answer in answers] == [(418, b"{}")] * 2
    assert worker.requests[0].startswith(b"POST /a HTTP/1.1\r\n")
    assert worker.requests[0].endswith(b"\r\n\r\n1")
    assert worker.requests[1].startswith(b"GET /b HTTP/1.1\r\n")
    assert worker.connections_open == 0


@pytest.mark.parametrize(
    "request_",
    [
        REQUEST + b"\r\n",
        REQUEST + b"Content-Length: 9\r\n\r\n0\r\n\r\n1234",
        REQUEST + CHUNKED + b"5\r\n0\r\n\r\n\r\n" + b"a;x=y\r\n0123456789\r\n" + b"0\r\n\r\n",
    ],
)
async def test_scripted_worker_reads_each_request_to_its_end(request_: bytes) -> None:
    async with ScriptedWorker(b"ok") as worker:
        reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(worker.url).port)
        writer.write(request_ * 2)
        assert await reader.readexactly(4) == b"okok"
        writer.close()
        await worker.connections[0].wait_closed()
    assert worker.requests == [request_] * 2


async def test_scripted_worker_writes_byte_by_byte_on_demand(gateway_for: GatewayFor) -> None:
    go_on = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        head, _, body = answer_of(EVENT + DONE, content_type="text/event-stream").partition(EVENT)
        await connection.write(head)
        await go_on.wait()
        await connection.dribble(EVENT + body)

    async with ScriptedWorker(script) as worker:
        gateway = await gateway_for(Recorder, workers=[worker.url])
        async with gateway.client.stream("POST", CHAT, json={}) as answer:
            go_on.set()
            assert await answer.aread() == EVENT + DONE
    assert gateway.plugin(Recorder).chunks == [bytes([byte]) for byte in EVENT + DONE]


async def test_scripted_worker_resets_a_connection() -> None:
    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.write(b"HTTP/1.1 200 OK\r\n")
        connection.reset()

    async with ScriptedWorker(script) as worker:
        reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(worker.url).port)
        writer.write(REQUEST + b"\r\n")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()


async def test_scripted_worker_notices_a_disconnected_peer() -> None:
    saw = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.wait_closed()
        saw.set()
        await connection.write(b"too late")

    async with ScriptedWorker(script) as worker, httpx.AsyncClient() as client:
        asking = asyncio.create_task(client.get(worker.url))
        await until(lambda: bool(worker.requests))
        asking.cancel()
        await saw.wait()


async def test_scripted_worker_write_blocks_while_the_peer_does_not_read() -> None:
    filled = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        writing = asyncio.create_task(connection.write(b"x" * (64 << 20)))
        await asyncio.sleep(0)
        assert not writing.done()
        filled.set()
        await writing

    async with ScriptedWorker(script) as worker:
        reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(worker.url).port)
        await filled.wait()
        assert len(await reader.readexactly(64 << 20)) == 64 << 20
        assert await reader.read() == b"", "it closes when its script is over"
        writer.close()


async def test_scripted_worker_raises_its_script_s_exception() -> None:
    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        raise AssertionError("not what was expected")

    async def ask() -> None:
        async with ScriptedWorker(script) as worker, httpx.AsyncClient() as client:
            with pytest.raises(httpx.RemoteProtocolError):
                await client.get(worker.url)

    with pytest.raises(AssertionError, match="not what was expected"):
        await ask()


async def test_scripted_worker_serves_tls() -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with ScriptedWorker(answer_of(b"{}"), tls=context) as worker:
        assert worker.url.startswith("https://")
        async with httpx.AsyncClient(verify=trusting) as client:
            assert (await client.get(worker.url)).content == b"{}"


def left_over() -> set[asyncio.Task[object]]:
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}


async def test_live_closes_tasks_connections_and_signal_handlers(simulator: Simulator) -> None:
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    tasks, frozen = left_over(), gc.get_freeze_count()
    config = Config(probes=NO_PROBES, workers=(Worker(url=simulator.url),), plugins=(entry(Door),))
    async with live(config) as gateway:
        waiting = asyncio.create_task(gateway.client.post(CHAT, json={}))
        idle = httpx.AsyncClient()
        assert (await idle.get(f"{gateway.url}/health")).status_code == 200
        await gateway.plugin(Door).reached.wait()
        assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers
    await asyncio.gather(waiting, return_exceptions=True)
    await idle.aclose()
    assert gateway.gateway.proxy.in_flight == set()
    assert gateway.server.server_state.connections == set()
    assert left_over() <= tasks
    assert gc.get_freeze_count() == frozen
    url = httpx.URL(gateway.url)
    with pytest.raises(OSError, match="refused"):
        await asyncio.open_connection(url.host, url.port)


async def test_live_rejects_waiting_calls_as_draining_at_exit(simulator: Simulator) -> None:
    config = Config(probes=NO_PROBES, workers=(Worker(url=simulator.url),), plugins=(entry(Door),))
    async with httpx.AsyncClient() as client:
        async with live(config) as gateway:
            waiting = asyncio.create_task(client.post(gateway.url + CHAT, json={}))
            await gateway.plugin(Door).reached.wait()
        answer = await waiting
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "draining")


async def test_live_leaves_no_tasks_if_the_gateway_fails_to_start() -> None:
    tasks = left_over()
    config = Config(plugins=(entry(Beside), entry(BesideToo, fails=True)))
    with pytest.raises(ConfigError, match="the disk is full"):
        async with live(config):
            pass
    assert left_over() == tasks


async def test_entry_names_a_plugin_by_its_top_level_class(gateway_for: GatewayFor) -> None:
    class Inner:
        pass

    with pytest.raises(ValueError, match="Inner must stand at the top level of its module"):
        entry(Inner)
    gateway = await gateway_for(entry(Recorder), "sessions", log_level="error")
    assert gateway.gateway.config.log_level == "error"
    assert isinstance(gateway.plugin(Recorder), Recorder)
    with pytest.raises(LookupError, match="no Door runs in this gateway"):
        gateway.plugin(Door)


async def test_gateway_for_takes_sections_as_mappings(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    path = str(tmp_path / "notes.db")
    first = await gateway_for(storage={"path": path}, failover={"max_workers": 1})
    async with live(first.gateway.config) as second:
        config = second.gateway.config
        assert (config.storage.path, config.failover.max_workers) == (path, 1)
    with pytest.raises(msgspec.ValidationError, match="unknown field `pth`"):
        await gateway_for(storage={"pth": path})


@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_plugin_guide_s_example_tests_pass(tmp_path: Path, mode: str) -> None:
    codes = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    [conftest] = [code for code in codes if "pytest_plugins" in code]
    [test] = [code for code in codes if "async def test_" in code]
    if mode == "strict":
        test = test.replace("async def", "@pytest.mark.asyncio\nasync def")
    (tmp_path / "capture.py").write_text(codes[0])
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_capture.py").write_text(test)
    options = [f"-oasyncio_mode={mode}", "-oasyncio_default_fixture_loop_scope=function"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert "2 passed" in done.stdout, done.stdout + done.stderr
