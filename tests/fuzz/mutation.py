"""Damages inputs: at any byte, by JSON's own signs, and by parts of other inputs."""

import re
from collections.abc import Callable, Sequence
from random import Random

TOKENS = (
    *(b'"', b"\\", b"{", b"}", b"[", b"]", b":", b",", b"null", b"true", b"false", b"{}", b"[]"),
    *(b'""', b"0", b"-", b"-0", b"01", b"1.", b".5", b"1e999", b"1E+5", b"-1e-400", b"NaN"),
    *(b"9223372036854775807", b"9223372036854775808", b"18446744073709551616", b"2147483648"),
    *(b"-0.0", b"1e-7", b"0.1", b"1" * 400, b"0." + b"3" * 40, b"Infinity", b"1_0"),
    *(b"\\u0000", b"\\ud800", b"\\udc00", b"\\ud83d\\ude00", b"\\u00e9", b"\\x", b"\\/", b"\\u12"),
    *(b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc3", b"\xe2\x80\xa8"),
    b"\x00",
    *(b" ", b"\t", b"\n", b"\r\n", b"\n\n", b"\x7f", b"data: ", b"data:", b"[DONE]", b": x\n\n"),
    *(b"0\r\n\r\n", b"5\r\nhello\r\n", b"\xef\xbb\xbf", b"[" * 600, b'{"a":' * 600),
    *(b'"index":', b'"logprobs":', b'"token_ids":', b'"usage":', b'"finish_reason":', b'"id":'),
)
"""What stands in the way of scanners that are not strict."""


VALUES = (
    *(b"null", b"true", b"false", b"0", b"-0", b"1", b"-0.0", b"1e5", b"0.1", b"-9999.0", b"1E-7"),
    *(b"2147483647", b"2147483648", b"-1", b"9223372036854775808", b"1e400", b"1.5", b"[]", b"{}"),
    *(b'""', b'"a"', b'"\\u00e9"', b'"\xc3\xa9"', b'"\\ud83d\\ude00"', b'"\\ud800"', b'"stop"'),
    *(
        b"[1,2]",
        b"[null]",
        b"[[0]]",
        b'{"a":1}',
        b'{"a":1,"a":2}',
        b'{"index":1}',
        b'"\\n\\/\\u0041"',
    ),
)
"""What may stand for a value, so that the result is still JSON."""

_VALUE = re.compile(rb'(?<=[:,\[])\s*("(?:[^"\\]|\\.)*"|[-\d.eE+]+|null|true|false|\[\]|\{\})')


def mutated(given: bytes, others: Sequence[bytes], random: Random) -> bytes:
    """Return `given` with some damage; one input in twelve is left as it is."""
    if not random.randrange(12):
        return given
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        given = random.choice(_WAYS)(given, others, random)
    return given


def _flip(given: bytes, _: Sequence[bytes], random: Random) -> bytes:
    if not given:
        return given
    at = random.randrange(len(given))
    return given[:at] + bytes([given[at] ^ 1 << random.randrange(8)]) + given[at + 1 :]


def _insert(given: bytes, _: Sequence[bytes], random: Random) -> bytes:
    at = random.randint(0, len(given))
    return given[:at] + random.choice(TOKENS) + given[at:]


def _replace(given: bytes, _: Sequence[bytes], random: Random) -> bytes:
    start, end = _span(given, random)
    return given[:start] + random.choice(TOKENS) + given[end:]


def _drop(given: bytes, _: Sequence[bytes], random: Random) -> bytes:
    start, end = _span(given, random)
    return given[:start] + given[end:]


def _double(given: bytes, _: Sequence[bytes], random: Random) -> bytes:
    start, end = _span(given, random)
    return given[:end] + given[start:]


def _cut_off(given: bytes, _: Sequence[bytes], random: Random) -> bytes:
    return given[: random.randint(0, len(given))]


def _splice(given: bytes, others: Sequence[bytes], random: Random) -> bytes:
    """Replace a part by one of another input, from sign to sign if that can be had."""
    other = random.choice(others)
    start, end = _span(given, random)
    from_, to = _span(other, random)
    return given[:start] + other[from_:to] + given[end:]


def _token_of_it(given: bytes, _: Sequence[bytes], random: Random) -> bytes:
    """Damage right behind one of JSON's signs, so that more of the result is still JSON."""
    places = [at for at, byte in enumerate(given) if byte in b':,{["']
    if not places:
        return given
    at = random.choice(places) + 1
    return given[:at] + random.choice(TOKENS) + given[at + random.choice((0, 0, 1, 4)) :]


def _value(given: bytes, _: Sequence[bytes], random: Random) -> bytes:
    """Replace a value by another, or by another of the same input."""
    found = list(_VALUE.finditer(given))
    if not found:
        return given
    start, end = random.choice(found).span(1)
    value = random.choice(found)[1] if random.random() < 0.2 else random.choice(VALUES)
    return given[:start] + value + given[end:]


def _span(given: bytes, random: Random) -> tuple[int, int]:
    start = random.randint(0, len(given))
    return start, min(len(given), start + random.choice((1, 2, 5, 20, 200)))


_WAYS: Sequence[Callable[[bytes, Sequence[bytes], Random], bytes]] = (
    _flip,
    _insert,
    _replace,
    _drop,
    _double,
    _cut_off,
    _splice,
    _token_of_it,
    *[_value] * 6,
)
