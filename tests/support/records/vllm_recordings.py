"""Exchanges recorded from real engines, one a line in `tests/support/data`."""

import base64
from functools import cache
from pathlib import Path

import msgspec
from support.paths import SUPPORT

FILE = SUPPORT / "data" / "vllm-0.32.0.jsonl"
MORE = SUPPORT / "data" / "vllm-0.32.0-more.jsonl"
OTHER_ENGINES = SUPPORT / "data" / "engines.jsonl"


class RecordedExchange(msgspec.Struct, frozen=True):
    """A request and its answer. `cut_short` says why an answer is not whole."""

    name: str
    method: str
    path: str
    request_headers: list[tuple[str, str]]
    request_body: bytes
    status: int
    headers: list[tuple[str, str]]
    body: bytes
    cut_short: str | None = None


class _Content(msgspec.Struct):
    text: str | None = None
    base64: str | None = None

    def to_bytes(self) -> bytes:
        if self.text is not None:
            return self.text.encode()
        return base64.b64decode(self.base64 or "")


class _Line(msgspec.Struct):
    name: str
    method: str
    path: str
    request_headers: list[tuple[str, str]]
    request_body: _Content | None
    status: int
    headers: list[tuple[str, str]]
    body: _Content | None
    cut_short: str | None = None

    def exchange(self) -> RecordedExchange:
        return RecordedExchange(
            self.name,
            self.method,
            self.path,
            self.request_headers,
            self.request_body.to_bytes() if self.request_body else b"",
            self.status,
            self.headers,
            self.body.to_bytes() if self.body else b"",
            self.cut_short,
        )


@cache
def load(file: Path = FILE) -> dict[str, RecordedExchange]:
    """All exchanges by name: `group/what` of vLLM and MORE, `engine/what` of OTHER_ENGINES."""
    decoder = msgspec.json.Decoder(_Line)
    lines = file.read_bytes().splitlines()
    return {line.name: line.exchange() for line in map(decoder.decode, lines)}
