"""Uploads of models: what their installation does to calls, and how fast their bytes come."""

import json
import os
import struct
import tarfile
import tempfile
import zlib
from urllib.parse import urlsplit

import httpx
import msgspec
from support.uploads.asking import BYTES, TUS, metadata

from bench.processes import OTHERS, pinned
from bench.programs import on_path
from bench.running import Running
from bench.stack import token_of
from bench.works import MIB, Calls, Reading

GIB = 1024 * MIB

BLOCK = 16 * MIB
"""Bytes of the weights that the archive repeats, of which half are left compressed."""

BEFORE = 4.0
"""Seconds of an installation that pass before the calls are measured."""


class Installing(msgspec.Struct, frozen=True):
    """Calls while the gateway installs uploads, whose bytes have come before.

    There are enough of `size` bytes, twice that unpacked, for one to be installed at any time: each
    takes a second or more.
    """

    name: str
    calls: Calls
    size: int = 128 * MIB

    def do(self, running: Running, seconds: float) -> Reading:
        data = archive(self.size)
        count = int(max(seconds, self.calls.least) + BEFORE) + 2
        with httpx.Client(base_url=_base(running), headers=_headers(), timeout=120) as client:
            uploads = [_begin(client, f"bench/{number}", len(data)) for number in range(count)]
            for upload in uploads:
                _append(client, upload, 0, data[:-1])
            os.sync()
            for upload in uploads:
                _append(client, upload, len(data) - 1, data[-1:])
            reading = self.calls.do(running, seconds)
            reading.useless = ""  # an installation takes what the calls leave of the processor
            self._judge(reading, [client.get(upload).json() for upload in uploads])
        return reading

    def _judge(self, reading: Reading, uploads: list[dict[str, object]]) -> None:
        states = [upload["status"] for upload in uploads]
        if "failed" in states or states[0] not in ("installing", "completed"):
            reading.useless = f"nothing was installed: {uploads[0]}"
        elif states[-1] == "completed":
            reading.useless = "all was installed before the calls had ended"


class Sending(msgspec.Struct, frozen=True):
    """`curl -T` of a file of `size` bytes: a PATCH of the protocol, or a PUT into a folder."""

    name: str
    size: int = GIB

    def do(self, running: Running, seconds: float) -> Reading:
        with tempfile.NamedTemporaryFile() as file:
            file.truncate(self.size)
            os.sync()  # nothing that was written before is to be waited for
            taken = (
                self._put(running, file.name)
                if running.system.dav
                else self._patch(running, file.name)
            )
        return Reading(per_gib=taken / (self.size / GIB), answered=0)

    def _put(self, running: Running, file: str) -> float:
        return _curl(f"{_base(running)}/uploads/file", "201 204", file)

    def _patch(self, running: Running, file: str) -> float:
        with httpx.Client(base_url=_base(running), headers=_headers(), timeout=120) as client:
            upload = _begin(client, "bench/sent", self.size + 1)  # the last byte never comes
            headers = {**_headers(), **BYTES, "upload-offset": "0"}
            given = [f"-H{name}: {value}" for name, value in headers.items()]
            taken = _curl(f"{_base(running)}{upload}", "204", file, "-XPATCH", *given)
            client.delete(upload, headers=TUS).raise_for_status()
        return taken


def archive(size: int) -> bytes:
    """A `.tar.gz` of a model, of about so many bytes; its weights are twice that."""
    block = os.urandom(BLOCK // 2).hex().encode()
    length = max(size // (BLOCK // 2), 1) * BLOCK
    header = {"w": {"dtype": "U8", "shape": [length], "data_offsets": [0, length]}}
    first = json.dumps(header).encode()
    first = struct.pack("<Q", len(first)) + first
    weights = tarfile.TarInfo("model/model.safetensors")
    weights.size = len(first) + length
    config = tarfile.TarInfo("model/config.json")
    config.size = 2
    begin = config.tobuf() + b"{}".ljust(tarfile.BLOCKSIZE, b"\0") + weights.tobuf() + first
    end = bytes(-weights.size % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE)
    return _gzip(begin) + _gzip(block) * (length // BLOCK) + _gzip(end)


def _gzip(data: bytes) -> bytes:
    stream = zlib.compressobj(1, zlib.DEFLATED, 31)
    return stream.compress(data) + stream.flush()


def _base(running: Running) -> str:
    where = urlsplit(running.url)
    return f"{where.scheme}://{where.netloc}"


def _headers() -> dict[str, str]:
    return {"authorization": f"Bearer {token_of(0)}"}


def _begin(client: httpx.Client, model: str, length: int) -> str:
    """The path of a new upload."""
    given = {"upload-length": str(length), "upload-metadata": metadata(model_name=model)}
    answer = client.post("/upload", headers={**TUS, **given})
    answer.raise_for_status()
    return f"/{answer.headers['location']}"


def _append(client: httpx.Client, upload: str, offset: int, data: bytes) -> None:
    headers = {**BYTES, "upload-offset": str(offset)}
    client.patch(upload, headers=headers, content=data).raise_for_status()


def _curl(url: str, wanted: str, file: str, *arguments: str) -> float:
    """The seconds that it took. Raises RuntimeError."""
    curl = on_path("curl", "curl")
    told = ("-o/dev/null", "-w\n%{http_code} %{time_total}\n")
    argv = (curl, "-sS", *told, "-HExpect:", *arguments, "-T", file, url)
    with pinned(argv, OTHERS) as running:
        assert running.stdout is not None
        said = running.stdout.read().decode()
    code, _, seconds = said.split("\n")[-2].partition(" ")
    if code not in wanted.split():
        raise RuntimeError(f"curl was answered {code}: {said}")
    return float(seconds)
