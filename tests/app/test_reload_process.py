"""SIGHUP to a real `gateway serve`."""

import asyncio
import re
import signal
from pathlib import Path

from support.callers.raw_client import head_of
from support.gateways.reloadable import write
from support.gateways.serving_process import serving
from support.plugins.recording_plugin import until

from gateway.testing import ScriptedConnection, ScriptedWorker, answer_of

FAILED = re.compile(rb"the reload failed, nothing was changed: (.*)\n")
RELOADED = re.compile(rb"reloaded: (.*)\n")


async def test_sighup_reloads_the_config_file(tmp_path: Path) -> None:
    may_end = asyncio.Event()

    async def late(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await may_end.wait()
        await connection.write(answer_of(b'"old"'))

    file = tmp_path / "gateway.yaml"
    async with ScriptedWorker(late) as old, ScriptedWorker(answer_of(b'"new"')) as new:
        write(file, workers=[old.url])
        async with (
            serving("", "--config", str(file)) as process,
            process.client() as first,
            process.client() as second,
        ):
            await first.send(head_of("GET", "/v1/models", []))
            await until(lambda: bool(old.requests))
            file.write_text("workers: []\ntimeouts: 5\n")
            process.kill(signal.SIGHUP)
            said = await process.says(FAILED)
            assert b"gateway.yaml:2: timeouts" in said[1]
            write(file, workers=[new.url])
            process.kill(signal.SIGHUP)
            await process.says(RELOADED)
            assert (await second.ask("GET", "/v1/models")).body == b'"new"'
            may_end.set()
            assert (await first.answer()).body == b'"old"'
            write(file, log_level="error")
            process.kill(signal.SIGHUP)
            while (await second.ask("GET", "/v1/models")).status != 503:
                pass
            process.kill(signal.SIGTERM)
            assert await process.ended() == 0
    assert b"Traceback" not in process.log
    assert b"Shutting down" not in process.log, "what is not an error is no longer logged"


async def test_sighup_ends_a_gateway_without_a_config_file() -> None:
    """As it does when a terminal is closed."""
    async with serving("http://127.0.0.1:9") as process:
        process.kill(signal.SIGHUP)
        assert await process.ended() == -signal.SIGHUP
