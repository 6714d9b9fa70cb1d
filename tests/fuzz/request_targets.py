"""The target of the request's part of the kernel: bodies of requests."""

import json
from collections.abc import Sequence
from random import Random

import msgspec
from support.records.vllm_recordings import OTHER_ENGINES, load

from fuzz.target import Differs
from gateway.kernel.interface import Field, Functions

MOST = 20_000
"""Bytes of a request, so that many can be tried."""

SEEDS = (
    b'{"model":"m","messages":[{"role":"user","content":"Hi \\n \xc3\xa9"}],"max_tokens":64}',
    b'{ "prompt" : [ [1, 2] , [3] ],\n "n": 2, "stream": true, "stop": null, "user": "u" }\n',
    b'{"a":-0,"b":1.5e10,"c":"\\ud83d\\ude00","d":{"x":[false,{}]},"e":[],"f":123456789012345678}',
    b'{"model":"' + b"x" * 255 + b'","input":"' + b"y" * 254 + b'","tools":[{},"\\\\",7,null]}',
)


class Requests:
    """Bodies of requests, whole and damaged."""

    name = "request-fields"

    def __init__(self) -> None:
        found = [*load().values(), *load(OTHER_ENGINES).values()]
        bodies = {one.request_body for one in found if len(one.request_body) <= MOST}
        self._seeds = (*sorted(bodies), *SEEDS)

    def seeds(self) -> Sequence[bytes]:
        return self._seeds

    def compare(self, native: Functions, given: bytes, random: Random) -> bool:
        del random
        found = native.read_fields(given)
        if found is None:
            return False
        differs = difference(given, found)
        if differs:
            raise Differs(f"{differs}: {found} of {given!r}")
        return True


def difference(body: bytes, fields: dict[str, Field]) -> str:
    """Return how `fields` are not those of `body`; empty: they are."""
    try:
        whole = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return f"msgspec does not decode it: {error}"
    names = [name for name, _ in json.loads(body, object_pairs_hook=list)]
    if not isinstance(whole, dict) or names != list(fields):
        return "other fields"
    return ", ".join(name for name in fields if not _is_right(body, fields[name], whole[name]))


def _is_right(body: bytes, field: Field, value: object) -> bool:
    if not isinstance(field, tuple):
        return type(field) is type(value) and field == value and _is_short(field)
    spans = list(zip(field[::2], field[1::2], strict=True))
    read = [msgspec.json.decode(body[start:end]) for start, end in spans]
    exact = all(body[start:end] == body[start:end].strip() for start, end in spans)
    items = value[:2] if isinstance(value, list) else []
    return exact and read == [value, *items] and not _is_plain(body[slice(*spans[0])])


def _is_short(field: object) -> bool:
    return len(field.encode()) <= 254 if isinstance(field, str) else True


def _is_plain(written: bytes) -> bool:
    """Whether the value itself was to be there in place of its place."""
    if written in (b"null", b"true", b"false"):
        return True
    if written[:1] == b'"':
        return len(written) <= 256 and b"\\" not in written
    digits = written.removeprefix(b"-")
    return digits.isdigit() and len(digits) <= 18 and written != b"-0"
