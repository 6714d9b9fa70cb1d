"""An upload of 4 GiB: what the gateway needs of memory, and how fast it is. `-m slow`."""

import logging
import os
import signal
import time
from pathlib import Path

import pytest
from support.gateways.serving_process import serving
from support.uploads.asking import BYTES, PLUGIN, TUS, metadata

log = logging.getLogger("tests.uploads")

GIB = 1 << 30
MIB = 1 << 20
SIZE = 4 * GIB

CONFIG = """
storage: {{path: {folder}/gateway.db}}
plugins:
  - {plugin}: {{cache: {folder}/cache, keep_free_gb: 0}}
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_fault_9_1_4_gib_need_less_than_32_mib_of_memory(tmp_path: Path) -> None:
    config, sparse = tmp_path / "gateway.yaml", tmp_path / "sparse"
    config.write_text(CONFIG.format(folder=tmp_path, plugin=PLUGIN))
    sparse.touch()
    os.truncate(sparse, SIZE)
    async with serving("http://127.0.0.1:9", "--config", str(config)) as process:
        given = {**TUS, "upload-length": str(SIZE + 1), "upload-metadata": NAMED}
        async with process.client() as client:
            created = await client.ask("POST", "/upload", headers_of(given))
            path = f"/{(created.value(b'location') or b'').decode()}"
            before = process.memory()
            process.forget_peak()
            began = time.monotonic()
            lines = {**BYTES, "upload-offset": "0", "content-length": str(SIZE)}
            head = b"".join(b"%b: %b\r\n" % line for line in headers_of(lines))
            await client.send(b"PATCH %b HTTP/1.1\r\nhost: a\r\n%b\r\n" % (path.encode(), head))
            with sparse.open("rb", buffering=0) as file:
                while data := file.read(MIB):
                    await client.send(data)
            answer = await client.answer("PATCH")
            seconds = time.monotonic() - began
        grown = process.memory("VmHWM") - before
        log.info("%.1f MiB more at %.0f MB/s", grown / MIB, SIZE / seconds / 1e6)
        assert (answer.status, answer.value(b"upload-offset")) == (204, b"%d" % SIZE)
        assert grown < 32 * MIB
        process.kill(signal.SIGTERM)
        await process.ended()


NAMED = metadata(model_name="large")


def headers_of(given: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in given.items()]
