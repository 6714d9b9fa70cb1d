"""tuspy and tus-js-client, unmodified, upload models whole, in chunks, cut, and in parts.

Opt-in, like the other clients. TUSPY names a Python that has tuspy, and TUS_JS a folder in which
npm has installed tus-js-client; otherwise both are in .venv-clients.
"""

import asyncio
import json
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.paths import ROOT
from support.uploads.asking import over, uploading
from support.uploads.cutting_proxy import CuttingProxy
from support.uploads.models import installed, model, safetensors, tar

from gateway.testing import GatewayFor, Live

pytestmark = [pytest.mark.clients, pytest.mark.timeout(300)]

HERE = Path(__file__).parent
CLIENTS = ROOT / ".venv-clients"
TUSPY = os.environ.get("TUSPY", str(CLIENTS / "bin/python"))
TUS_JS = os.environ.get("TUS_JS", str(CLIENTS))

WEIGHTS = random.Random(5).randbytes(4_000_000)
MODEL = {**model(), "model.safetensors": safetensors(len(WEIGHTS), b"") + WEIGHTS}
ARCHIVE = tar(MODEL)
MIB = 1 << 20
CUTS = 50
NAMED = {"model_name": "org/tiny"}

PYTHON_KINDS: Mapping[str, Mapping[str, Any]] = {
    "whole": {},
    "chunked": {"chunk": 300_001},
    "checked": {"chunk": 300_001, "checksum": True},
}
JS_KINDS: Mapping[str, Mapping[str, Any]] = {
    "whole": {},
    "chunked": {"chunk": 300_001},
    "parallel": {"parallel": 3},
    "deferred": {"chunk": 300_001, "deferred": True},
    "during creation": {"chunk": 300_001, "during": True},
    "override": {"override": True},
}


async def ask(command: list[str]) -> dict[str, Any]:
    """What a client prints. Fails if the client does."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, error = await process.communicate()
    assert process.returncode == 0, error.decode()
    found: dict[str, Any] = json.loads(out)
    return found


async def by_python(url: str, file: Path, **options: Any) -> str:
    given: dict[str, Any] = {
        "url": f"{url}/upload",
        "file": str(file),
        "metadata": {"model_name": "org/tiny"},
    }
    given |= {"chunk": 0, "retries": 0, "checksum": False, **options}
    command = [TUSPY, str(HERE / "asking_tuspy.py"), json.dumps(given)]
    return str((await ask(command))["url"])


async def by_js(url: str, file: Path, **options: Any) -> str:
    given: dict[str, Any] = {
        "url": f"{url}/upload",
        "file": str(file),
        "metadata": {"model_name": "org/tiny"},
    }
    given |= {"chunk": 0, "retries": 0, "parallel": 1, "deferred": False, "during": False}
    given |= {"override": False, **options}
    command = ["node", str(HERE / "asking_tus_js.mjs"), json.dumps(given), TUS_JS]
    return str((await ask(command))["url"])


async def has_arrived(live: Live, folder: Path, url: str) -> None:
    found = await over(live, f"/upload/{url.rpartition('/')[2]}")
    assert found["status"] == "completed", found
    assert installed(folder / "cache", "org/tiny") == MODEL


def archive_in(folder: Path) -> Path:
    file = folder / "tiny.tar"
    file.write_bytes(ARCHIVE)
    return file


@pytest.mark.parametrize("kind", PYTHON_KINDS)
async def test_tuspy(gateway_for: GatewayFor, tmp_path: Path, kind: str) -> None:
    live = await uploading(gateway_for, tmp_path)
    url = await by_python(live.url, archive_in(tmp_path), **PYTHON_KINDS[kind])
    await has_arrived(live, tmp_path, url)


@pytest.mark.parametrize("kind", JS_KINDS)
async def test_tus_js_client(gateway_for: GatewayFor, tmp_path: Path, kind: str) -> None:
    live = await uploading(gateway_for, tmp_path)
    url = await by_js(live.url, archive_in(tmp_path), **JS_KINDS[kind])
    await has_arrived(live, tmp_path, url)


def cuts() -> list[int]:
    """Bytes between two cuts; the first one lets the upload be created."""
    chance = random.Random(7)
    return [20_000, *(chance.randrange(1, 2 * len(ARCHIVE) // CUTS // 3) for _ in range(CUTS - 1))]


@pytest.mark.parametrize("kind", ["whole", "chunked"])
async def test_tuspy_goes_on_after_cuts(gateway_for: GatewayFor, tmp_path: Path, kind: str) -> None:
    live = await uploading(gateway_for, tmp_path)
    async with CuttingProxy(live, cuts()).running() as proxy:
        options = {**PYTHON_KINDS[kind], "retries": 10 * CUTS}
        url = await by_python(proxy.url, archive_in(tmp_path), **options)
        assert (proxy.cut, proxy.left) == (CUTS, 0)
    await has_arrived(live, tmp_path, url)


@pytest.mark.parametrize("kind", ["whole", "chunked", "parallel"])
async def test_tus_js_client_goes_on_after_cuts(
    gateway_for: GatewayFor, tmp_path: Path, kind: str
) -> None:
    live = await uploading(gateway_for, tmp_path)
    async with CuttingProxy(live, cuts()).running() as proxy:
        options = {**JS_KINDS[kind], "retries": 10 * CUTS}
        url = await by_js(proxy.url, archive_in(tmp_path), **options)
        assert (proxy.cut, proxy.left) == (CUTS, 0)
    await has_arrived(live, tmp_path, url)


async def test_tuspy_joins_parts(gateway_for: GatewayFor, tmp_path: Path) -> None:
    """Parts at the same time, each by a client of its own; tuspy itself knows no final upload."""
    live = await uploading(gateway_for, tmp_path)
    pieces = [ARCHIVE[:MIB], ARCHIVE[MIB : 3 * MIB], ARCHIVE[3 * MIB :]]
    program = PARTS
    files = []
    for number, piece in enumerate(pieces):
        files.append(tmp_path / f"part-{number}")
        files[-1].write_bytes(piece)
    command = [TUSPY, "-c", program, f"{live.url}/upload", *map(str, files)]
    found = await ask(command)
    await has_arrived(live, tmp_path, found["url"])


PARTS = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
import requests
from tusclient.client import TusClient

url, *files = sys.argv[1:]

def send(file):
    client = TusClient(url, headers={"Upload-Concat": "partial"})
    uploader = client.uploader(file, chunk_size=300_001)
    uploader.upload()
    return uploader.url

with ThreadPoolExecutor() as threads:
    parts = list(threads.map(send, files))
headers = {"Tus-Resumable": "1.0.0", "Upload-Concat": "final;" + " ".join(parts)}
headers["Upload-Metadata"] = "model_name b3JnL3Rpbnk="
answer = requests.post(url, headers=headers)
answer.raise_for_status()
print(json.dumps({"url": answer.headers["Location"]}))
"""
