"""Large files at flat memory, in a gateway of its own process."""

import hashlib
from pathlib import Path

import pytest
from support.batch.files import END, PURPOSE, file_part, with_length, written
from support.callers.raw_client import head_of
from support.gateways.serving_process import serving

MIB = 1024 * 1024
PIECE = bytes(range(256)) * 4096
MOST = 8 * MIB
"""How much more memory the process may take meanwhile: buffers of sockets, pieces of a file."""


@pytest.mark.parametrize("count", [24, pytest.param(200, marks=pytest.mark.slow)])
async def test_file_goes_in_and_out_at_flat_memory(tmp_path: Path, count: int) -> None:
    begin = written(PURPOSE) + written(file_part(b""))[:-2]
    length = len(begin) + count * len(PIECE) + 2 + len(END)
    storage = str(tmp_path / "gateway.db")
    async with serving("http://127.0.0.1:9", "--plugin", "batch", storage__path=storage) as process:
        async with process.client() as client:
            assert (await client.ask("GET", "/v1/files")).status == 200
            before = process.memory()
            process.forget_peak()
            await client.send(head_of("POST", "/v1/files", with_length(length)) + begin)
            for _ in range(count):
                await client.send(PIECE)
            await client.send(b"\r\n" + END)
            answer = await client.answer()
            assert answer.status == 200, answer
            grown = process.memory("VmHWM") - before
            assert grown < MOST, f"{grown / MIB:.1f} MiB for the upload"
            file_id = answer.body.split(b'"')[3].decode()
            process.forget_peak()
            await client.send(head_of("GET", f"/v1/files/{file_id}/content", []))
            assert (await client.head()).value(b"content-length") == b"%d" % (count * len(PIECE))
            digest = hashlib.sha256()
            for _ in range(count):
                digest.update(await client.reader.readexactly(len(PIECE)))
            assert digest.digest() == hashlib.sha256(PIECE * count).digest()
            down = process.memory("VmHWM") - before
            assert down < MOST, f"{down / MIB:.1f} MiB for the download"
