"""Packed numbers beside the tokens: alternatives at each token, and the experts it was routed to.

Engines send them as JSON lists, as base64 of a .npy file (vLLM), or as base64 of int32 (SGLang).
"""

import ast
import base64
import math
from array import array
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

_NPY = b"\x93NUMPY"

_CODES = {"|u1": "B", "|i1": "b", "<u2": "H", "<i2": "h", "<u4": "I", "<i4": "i", "<i8": "q"}
"""Types of .npy files of experts, as those of Python's arrays."""

NO_ID = -1
"""In place of the id of an alternative that the engine names by its text alone."""


class Array(msgspec.Struct, frozen=True):
    """An array of `dtype`, row after row, little endian; in JSON, `data` is base64."""

    dtype: Literal["int32", "float32"]
    shape: list[int]
    data: bytes

    @property
    def rows(self) -> int:
        return self.shape[0]

    def numbers(self) -> "array[Any]":
        """Return all numbers, row after row."""
        return array("i" if self.dtype == "int32" else "f", self.data)

    def cut(self, start: int, stop: int) -> bytes:
        """Return the bytes of the rows from `start` to `stop`."""
        size = 4 * math.prod(self.shape[1:])
        return self.data[start * size : stop * size]


class Top(msgspec.Struct, frozen=True):
    """The alternatives of each token, likeliest first as the engine has them: ids and logprobs.

    Both have a row of `k` per token; where a token has fewer, the ids are NO_ID, the logprobs NaN.
    """

    ids: Array
    logprobs: Array

    @property
    def k(self) -> int:
        return self.ids.shape[1]


MAX_HEAD = 1_024
"""Bytes of the head of a .npy file; that of an array of numbers has about a hundred."""

MAX_PADDED = 1 << 24
"""Alternatives with those that fill the rows up, if they are more than four times those sent."""

_ODD = (ValueError, TypeError, LookupError, OverflowError, SyntaxError, AttributeError)
"""What the conversions raise for values that are not of the form, broken base64 among them."""


def experts_of(told: Any, tokens: int) -> Array | None:
    """Return the experts of a sequence of `tokens` tokens as int32 of shape [rows, layers, k].

    The layers and k are one axis if the engine does not tell them apart. None if they are in no
    known form.
    """
    try:
        if isinstance(told, str):
            return _of_base64(told, tokens)
        return _of_lists(told) if isinstance(told, list) and told else None
    except _ODD:
        return None


def _of_base64(text: str, tokens: int) -> Array | None:
    data = base64.b64decode(text, validate=True)
    if data.startswith(_NPY):
        return _of_npy(data)
    rows = tokens - 1
    if rows < 1 or not data or len(data) % (4 * rows):
        return None
    return Array("int32", [rows, len(data) // (4 * rows)], data)


def _of_npy(data: bytes) -> Array | None:
    start = 12 if data[6] > 1 else 10  # the format's second version has a longer size
    end = start + int.from_bytes(data[8:start], "little")
    if end > MAX_HEAD:
        return None
    head = ast.literal_eval(data[start:end].decode("latin-1"))
    shape, code = list(head["shape"]), _CODES[head["descr"]]
    numbers = array(code, data[end:])
    sound = len(shape) > 1 and min(shape) > 0 and math.prod(shape) == len(numbers)
    if head["fortran_order"] or not sound:
        return None
    return Array("int32", shape, array("i", numbers).tobytes())


def _of_lists(rows: list[Any]) -> Array | None:
    shape: list[int] = []
    level: Any = rows
    while isinstance(level, list):
        shape.append(len(level))
        level = level[0] if level else None
    if not 2 <= len(shape) <= 3 or 0 in shape:
        return None
    flat = array("i", _flat(rows, shape))
    return Array("int32", shape, flat.tobytes())


def _flat(level: Any, shape: Sequence[int]) -> list[int]:
    """Return the numbers of nested lists. Raises ValueError if they do not have the shape."""
    if not shape:
        return [level]
    if not isinstance(level, list) or len(level) != shape[0]:
        raise ValueError("the lists are of different lengths")
    return [number for one in level for number in _flat(one, shape[1:])]


def top_of(
    told: Sequence[Any] | None, token_ids: Sequence[int], texts: Sequence[str] | None
) -> Top | None:
    """Return the alternatives of the sampled tokens; None if the engine sent none of them.

    `texts` are those of the sampled tokens: an alternative with the same text has the same id.
    """
    if not told or len(told) != len(token_ids):
        return None
    try:
        rows = [_alternatives(one) for one in told]
        k, sent = max(map(len, rows)), sum(map(len, rows))
        if not k or k * len(rows) > max(MAX_PADDED, 4 * sent):
            return None
        known = texts if texts and len(texts) == len(rows) else [None] * len(rows)
        owns = [{text: token} for text, token in zip(known, token_ids, strict=True)]
        return _packed(rows, owns, k)
    except _ODD:
        return None


def texts_of(told: Sequence[Any] | None) -> list[list[str]]:
    """Return the texts of the alternatives of each token; "" for one that is named by its id."""
    rows = map(_alternatives, told or ())
    return [[name if isinstance(name, str) else "" for name, _ in row] for row in rows]


def _packed(rows: list[list[tuple[Any, float]]], owns: list[dict[str | None, int]], k: int) -> Top:
    ids, logprobs = array("i"), array("f")
    for row, own in zip(rows, owns, strict=True):
        ids.extend([_id(name, own) for name, _ in row])
        logprobs.extend([value for _, value in row])
        ids.extend([NO_ID] * (k - len(row)))
        logprobs.extend([math.nan] * (k - len(row)))
    shape = [len(rows), k]
    return Top(Array("int32", shape, ids.tobytes()), Array("float32", shape, logprobs.tobytes()))


def _alternatives(one: Any) -> list[tuple[Any, float]]:
    """Return name (an id or a text) and logprob of each alternative.

    They are an object of text and logprob (completions), objects (chat), or lists of logprob, id
    and text (SGLang's generate).
    """
    pairs = one.items() if isinstance(one, dict) else map(_named, one or ())
    return [(name, value) for name, value in pairs if isinstance(value, int | float)]


def _named(entry: Any) -> tuple[Any, Any]:
    if isinstance(entry, dict):
        return entry.get("token_id", entry.get("token")), entry.get("logprob")
    if isinstance(entry, list) and len(entry) > 1:
        return entry[1], entry[0]
    return None, None


def _id(name: Any, own: dict[str | None, int]) -> int:
    if isinstance(name, str):
        prefix, _, number = name.partition(":")
        named = prefix == "token_id" and number.isdecimal()
        name = int(number) if named else own.get(name, NO_ID)
    fits = isinstance(name, int) and 0 <= name < 1 << 31
    return name if fits else NO_ID
