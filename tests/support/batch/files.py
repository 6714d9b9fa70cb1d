"""Callers of the routes of files: the `openai` client, and forms over bare sockets."""

from pathlib import Path

from gateway_plugins.batch import Batch
from gateway_plugins.batch.files.files import Files
from openai import AsyncOpenAI
from support.callers.raw_client import Headers, RawClient

from gateway.testing import Live

BOUNDARY = b"limit"
FORM = (b"content-type", b"multipart/form-data; boundary=" + BOUNDARY)
PURPOSE = (b'form-data; name="purpose"', b"batch")
END = b"--" + BOUNDARY + b"--\r\n"

Part = tuple[bytes, bytes]
"""The content-disposition of a part of a form, and its content."""


def client_of(live: Live, key: str = "none") -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{live.url}/v1", api_key=key, max_retries=0)


def files_of(live: Live) -> Files:
    return live.plugin(Batch)._engine().files


def contents(live: Live) -> list[Path]:
    """What is in the folder of files, apart from the lock of its process."""
    return [path for path in files_of(live).folder.path.iterdir() if path.suffix != ".lock"]


def file_part(content: bytes, name: bytes = b"file", filename: bytes = b"a.jsonl") -> Part:
    return b'form-data; name="%b"; filename="%b"' % (name, filename), content


def form(*parts: Part) -> bytes:
    return b"".join(map(written, parts)) + END


def written(part: Part) -> bytes:
    lines = (b"--" + BOUNDARY, b"content-disposition: " + part[0], b"", part[1], b"")
    return b"\r\n".join(lines)


def raw(live: Live) -> RawClient:
    return RawClient(*live.server.address)


def with_length(length: int, *more: tuple[bytes, bytes]) -> Headers:
    return [FORM, (b"content-length", b"%d" % length), *more]


def open_files() -> list[Path]:
    """What this process has open."""
    links = list(Path("/proc/self/fd").iterdir())
    return [link.readlink() for link in links if link.is_symlink()]
