"""Responses with mistakes: what a kernel must read as the Python code does, or leave to it."""

import re
import struct
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from support.records.vllm_recordings import OTHER_ENGINES, load

_WORDS = (
    b"null true false 0 -0 0.0 -0.0 1 -1 255 256 1e5 1E-7 0.1 1e400 1e-400 01 1. .5 +1 1e 5e-324"
    b" -1.1920928955078125e-07 12345678901234567890 123456789012345678901234567890 2147483647"
    b" 2147483648 NaN Infinity 3.4028235677973366e+38 -9999.0 0.001 0.0010000001"
    b" 0.30000001192092896 1.0000000000000002 0.30000000000000004 100000000000000000.0 1e16"
    b' 123456.5e-10 9007199254740993.0 "" [] {} [1,2] "null" "\\ud800" "\\ud83d\\ude00" "\\u0041"'
    b' "\\u000a" \\/ \\n "a":1 "index":1 "index":0, [DONE] data: "finish_reason":"stop"'
    b' "logprobs":{} "content":null "role":"user" "id":5 "token_ids":[] , : [ ] { } " \\'
)
_BYTES = b" |\n|\n\n|\r|\t|\0|\x7f|\xff|\xed\xa0\x80|\xc0\x80"
PIECES = [*_WORDS.split(b" "), *_BYTES.split(b"|")]

_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_VALUE = re.compile(rb'"[^"]*"|[\d.eE+-]+|null|true|false|\[\]|\{\}')
_BEFORE_VALUE = re.compile(rb"[,:\[{]")


class Sent(NamedTuple):
    """A response to a request for `path`."""

    path: str
    body: bytes
    streamed: bool


def recorded_answers() -> list[Sent]:
    """Of chat and completions, as real engines have sent them."""
    found = [*load().values(), *load(OTHER_ENGINES).values()]
    wanted = [one for one in found if one.path.endswith("/completions")]
    return [Sent(one.path, one.body, one.body.startswith(b"data:")) for one in wanted]


def number(chance: Random) -> bytes:
    """A number in any of the ways in which it can be written."""
    match chance.randrange(6):
        case 0:
            return repr(struct.unpack("d", chance.randbytes(8))[0]).encode()
        case 1:
            return repr(struct.unpack("f", chance.randbytes(4))[0]).encode()
        case 2:
            return repr(-chance.random() * 10 ** chance.randint(-8, 3)).encode()
        case 3:
            value = -chance.random() * 10.0 ** chance.randint(-30, 30)
            return f"{value:.{chance.randint(0, 18)}e}".encode()
        case 4:
            value = -chance.random() * 10.0 ** chance.randint(-6, 6)
            return f"{value:.{chance.randint(0, 18)}f}".encode()
        case _:
            most = 2 ** chance.randint(1, 70)
            return str(chance.randint(-most, most)).encode()


def mutated(chance: Random, body: bytes, others: Sequence[bytes]) -> bytes:
    """`body` with some mistakes, few enough that most of it is still read."""
    for _ in range(chance.choice((1, 1, 1, 2, 3, 5))):
        body = _once(chance, body, others)
    return body


def _once(chance: Random, body: bytes, others: Sequence[bytes]) -> bytes:
    start = chance.randrange(len(body) + 1)
    end = min(len(body), start + chance.choice((0, 1, 1, 2, 4, 9, 30)))
    match chance.randrange(8):
        case 0:
            return body[:start] + chance.choice(PIECES) + body[end:]
        case 1:
            return body[:start] + chance.randbytes(1) + body[start + 1 :]
        case 2:
            return body[:start] + body[end:]
        case 3:
            return body[:end] + body[start:]
        case 4 | 5 if found := list(_NUMBER.finditer(body)):
            taken = chance.choice(found)
            return body[: taken.start()] + number(chance) + body[taken.end() :]
        case 6 if places := [one.end() for one in _BEFORE_VALUE.finditer(body)]:
            start = chance.choice(places)
            value = _VALUE.match(body, start)
            return body[:start] + chance.choice(PIECES) + body[value.end() if value else start :]
        case _:
            other = chance.choice(others)
            from_ = chance.randrange(len(other) + 1)
            piece = other[from_ : from_ + chance.choice((5, 20, 100, 500))]
            return body[:start] + piece + body[end:]
