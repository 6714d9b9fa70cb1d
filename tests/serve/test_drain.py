"""How `gateway serve` begins and ends: signals, what they leave time for, mistakes at the start."""

import asyncio
import contextlib
import json
import re
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.callers.raw_client import CutShort, RawClient, head_of
from support.gateways.serving_process import serving, started
from support.plugins.recording_plugin import until

from gateway.testing import DONE, ScriptedConnection, ScriptedWorker, sse

EVENT = sse({"choices": []})
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
SHUTTING_DOWN = re.compile(rb"Shutting down")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def hold(connection: ScriptedConnection) -> None:
    """Begin a stream for those who ask for one; nobody gets a whole answer."""
    if b"/v1/stream" in await connection.read_request():
        await connection.write(HEAD + chunk(EVENT))
    await connection.wait_closed()


@pytest.fixture
async def worker() -> AsyncIterator[ScriptedWorker]:
    async with ScriptedWorker(hold) as running:
        yield running


async def ask(client: RawClient, path: str) -> None:
    await client.send(head_of("GET", path, []))


def refuses(address: tuple[str, int]) -> bool:
    with socket.socket() as knocking:
        return knocking.connect_ex(address) != 0


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
async def test_drain_finishes_calls_in_flight_and_accepts_no_new_ones(
    worker: ScriptedWorker, sent: signal.Signals
) -> None:
    async with serving(worker.url) as process, process.client() as client:
        await ask(client, "/v1/stream")
        await client.head()
        process.kill(sent)
        await process.says(SHUTTING_DOWN)
        await until(lambda: refuses(process.address))
        await worker.connections[0].write(chunk(DONE) + b"0\r\n\r\n")
        assert (await client.reader.read()).endswith(chunk(EVENT) + chunk(DONE) + b"0\r\n\r\n")
        assert await process.ended() == 0
    assert b"Traceback" not in process.log


async def test_drain_does_not_wait_for_idle_callers(worker: ScriptedWorker) -> None:
    async with serving(worker.url) as process, process.client() as client:
        assert (await client.ask("GET", "/health")).status == 200
        process.kill(signal.SIGTERM)
        assert await client.ended()
        assert await process.ended() == 0


async def test_drain_ends_calls_left_after_its_timeout_with_an_error(
    worker: ScriptedWorker,
) -> None:
    async with (
        serving(worker.url, timeouts__drain="0.2") as process,
        process.client() as waiting,
        process.client() as streaming,
    ):
        await ask(streaming, "/v1/stream")
        await ask(waiting, "/v1/wait")
        await until(lambda: len(worker.requests) == 2)
        process.kill(signal.SIGTERM)
        refused = await waiting.answer()
        with pytest.raises(CutShort) as cut:
            await streaming.answer()
        assert await process.ended() == 0
    assert (refused.status, error_code(refused.body)) == (503, "drain_timeout")
    assert int(refused.value(b"retry-after") or b"0") > 0
    assert cut.value.answer.body == EVENT
    assert b"Traceback" not in process.log


def error_code(body: bytes) -> str:
    code: str = json.loads(body)["error"]["code"]
    return code


async def test_second_ctrl_c_ends_the_gateway_at_once(worker: ScriptedWorker) -> None:
    async with serving(worker.url, timeouts__drain="600") as process, process.client() as client:
        await ask(client, "/v1/stream")
        await until(lambda: len(worker.requests) == 1)
        process.kill(signal.SIGINT)
        await process.says(SHUTTING_DOWN)
        process.kill(signal.SIGINT)
        with pytest.raises(CutShort) as cut:
            await client.answer()
        assert cut.value.answer.body.endswith(b"\n\n")
        assert await process.ended() == 130
    assert b"Traceback" not in process.log


HANGS = """
import asyncio, contextlib, logging
from gateway import hookimpl

@hookimpl
@contextlib.asynccontextmanager
async def lifespan(gateway):
    yield
    logging.getLogger("gateway").warning("for ever")
    await asyncio.Event().wait()
"""


async def test_further_ctrl_c_ends_a_gateway_whose_plugin_does_not_end(
    worker: ScriptedWorker, tmp_path: Path
) -> None:
    (tmp_path / "hangs.py").write_text(HANGS)
    plugin = ("--plugin", str(tmp_path / "hangs.py"))
    async with serving(worker.url, *plugin) as process:
        process.kill(signal.SIGINT)
        await process.says(re.compile(rb"for ever"))
        ending = asyncio.create_task(process.ended())
        while not ending.done():  # signals that come together count as one
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                process.kill(signal.SIGINT)
            await asyncio.wait([ending], timeout=0.05)
        assert await ending == -signal.SIGINT


# mistakes at the start


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--port", "89920"], "port: expected a port from 0 to 65535"),
        (["--plugin", "no_such_plugin"], "no_such_plugin"),
        (["--worker", "gpu-0:8000"], "--worker: workers"),
        (["--config", "no_such_file.yaml"], "no_such_file.yaml"),
        (["--host", "0.0.0.0"], "allow_anonymous"),
    ],
)
async def test_serve_reports_invalid_arguments(arguments: list[str], complaint: str) -> None:
    async with started("serve", *arguments, environment={}) as process:
        assert await process.ended() == 2
    assert complaint in process.log.decode()
    assert b"Traceback" not in process.log


async def test_serve_reports_an_invalid_config_file(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("workers: [http://127.0.0.1:8000/v1]\ntimeouts: {conect: 1}\n", "utf-8")
    async with started("serve", "--config", str(file), environment={}) as process:
        assert await process.ended() == 2
    assert 'gateway.yaml:2: timeouts.conect: unknown field; did you mean "connect"?' in (
        process.log.decode()
    )


async def test_serve_reports_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with started("serve", "--port", str(port), environment={}) as process:
            assert await process.ended() != 0
    assert str(port) in process.log.decode()
    assert b"Traceback" not in process.log
