"""Finds the members of JSON text and cuts some out; every other byte stays as it is.

Engines write more than JSON allows: NaN and -Infinity (Python's `json`), half of a surrogate pair,
bare control characters, a byte order mark before the text or a NUL after it. Decoders reject all of
these. This module only looks for the places at which members begin and end, so it takes them.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import pairwise

import msgspec

from gateway.errors import NOT_JSON, GatewayError

NULL = b"null"

_QUOTED = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_WORD = rb"[-+.0-9A-Za-z]++"
_string = re.compile(_QUOTED, re.DOTALL).match
_scalar = re.compile(_WORD).match
_bracket = re.compile(_QUOTED + rb'|\[[^\[\]{}"]*+\]|[\[\]{}"]', re.DOTALL).finditer
_member = re.compile(  # up to the next one, if the value is a string or a scalar
    rb"[ \t\r\n]*(" + _QUOTED + rb")[ \t\r\n]*:[ \t\r\n]*"
    rb"(?:(" + _QUOTED + rb"|" + _WORD + rb")[ \t\r\n]*([,}\]]))?",
    re.DOTALL,
).match
_lead = re.compile(
    rb"[ \t\r\n]*[{,][ \t\r\n]*(" + _QUOTED + rb")[ \t\r\n]*:[ \t\r\n]*", re.DOTALL
).match
_after = re.compile(rb"[ \t\r\n]*([,}\]])").match
_space = re.compile(rb"[ \t\r\n]*").match
_before = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n]*").match
_rest = re.compile(rb"[ \t\r\n\0]*\Z").match

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode


class Malformed(GatewayError):
    """The text is not even roughly JSON."""


class Member(msgspec.Struct, frozen=True, gc=False):
    """One member of an object: `text[start:value]` is its key, `text[value:end]` its value."""

    key: bytes
    start: int
    value: int
    end: int


class Edit(msgspec.Struct, frozen=True, gc=False):
    """`text[start:end]` becomes `new`."""

    start: int
    end: int
    new: bytes = b""


def members(text: bytes, at: int = 0) -> tuple[list[Member], int]:
    """Return the members of the object at `at`, and the place after it. Raises Malformed."""
    if text[at : at + 1] != b"{":
        raise Malformed("an object is expected")
    found: list[Member] = []
    at += 1
    closed = _after(text, at)
    if closed is not None and closed[1] == b"}":
        return found, closed.end()
    while (one := _member(text, at)) is not None:
        value, end, at = one.start(2), one.end(2), one.end()
        if end < 0:  # the value has others in it
            value = at
            end = end_of_value(text, value)
            after = _after(text, end)
            if after is None:
                break
            at = after.end()
        found.append(Member(_name(one[1]), one.start(1), value, end))
        last = text[at - 1]
        if last == ord("}"):
            return found, at
        if last != ord(","):
            break
    raise Malformed("an object has no end")


def members_within(text: bytes, one: Member) -> list[Member]:
    """Return the members of the object that is the value of `one`; none if it cannot be read."""
    try:
        return members(text, one.value)[0]
    except Malformed:
        return []


def quick_members(text: bytes, start: int, stop: int) -> list[Member] | None:
    """Return the members of the object `text[start:stop]`, several times as fast.

    None if a strict decoder rejects it, or if it has a key twice or with escapes.
    """
    try:
        values = _decode(text[start:stop])
    except NOT_JSON:
        return None
    found: list[Member] = []
    at = start
    for name, raw in values.items():
        key, value = _lead(text, at), bytes(raw)
        if (
            key is None
            or key[1] != b'"%b"' % name.encode()
            or not text.startswith(value, key.end())
        ):
            return None
        at = key.end() + len(value)
        found.append(Member(key[1][1:-1], key.start(1), key.end(), at))
    return found if not found or text[at:stop].strip() == b"}" else None


def quick_objects(text: bytes, start: int, stop: int) -> list[tuple[int, int, list[Member]]] | None:
    """Return what `objects` yields of the array `text[start:stop]`; None as `quick_members`."""
    try:
        values = _decode_list(text[start:stop])
    except NOT_JSON:
        return None
    result: list[tuple[int, int, list[Member]]] = []
    end = start + 1
    for raw in values:
        at = text.find(bytes(raw), end)  # only space and a comma are between
        end = at + len(bytes(raw))
        if text[at] == ord("{"):
            found = quick_members(text, at, end)
            if found is None:
                return None
            result.append((at, end, found))
    return result


def objects(text: bytes, at: int) -> Iterator[tuple[int, int, list[Member]]]:
    """Yield the place, the end and the members of each object in the array at `at`.

    Elements of other types are left out. Raises Malformed.
    """
    if text[at : at + 1] != b"[":
        raise Malformed("an array is expected")
    at = _skipped(text, at + 1)
    if text[at : at + 1] == b"]":
        return
    while True:
        if text[at : at + 1] == b"{":
            found, end = members(text, at)
            yield at, end, found
        else:
            end = end_of_value(text, at)
        after = _after(text, end)
        if after is None or after[1] == b"}":
            raise Malformed("an array has no end")
        if after[1] == b"]":
            return
        at = _skipped(text, after.end())


def end_of_value(text: bytes, at: int) -> int:
    """Return the place after the value at `at`. Raises Malformed."""
    first = text[at : at + 1]
    if first == b"{" or first == b"[":
        depth = 0
        for one in _bracket(text, at):
            start, end = one.span()
            if end - start > 1:  # a string, or an array without others
                if not depth:
                    return end
            elif text[start] in b"[{":
                depth += 1
            elif text[start] == ord('"'):  # to look on would take quadratic time
                break
            else:
                depth -= 1
                if not depth:
                    return end
        raise Malformed("a value has no end")
    found = _string(text, at) if first == b'"' else _scalar(text, at)
    if found is None:
        raise Malformed("a value is expected")
    return found.end()


def start_of_object(text: bytes) -> int:
    """Return the place of the object that `text` consists of, after a byte order mark and space."""
    found = _before(text)
    return found.end() if found is not None else 0


def is_rest(text: bytes, at: int) -> bool:
    """Whether `text` has only space and NUL from `at` on."""
    return _rest(text, at) is not None


def removals(found: Sequence[Member], doomed: Collection[Member]) -> list[Edit]:
    """Return the edits that take `doomed` out of the object with the members `found`."""
    kept = [number for number, one in enumerate(found) if one not in doomed]
    last = kept[-1] if kept else -1
    edits = [
        Edit(one.start, after.start) for one, after in pairwise(found[: last + 1]) if one in doomed
    ]
    if last + 1 < len(found):
        start = found[last].end if kept else found[0].start
        edits.append(Edit(start, found[-1].end))
    return edits


def additions(text: bytes, found: Sequence[Member], more: Iterable[tuple[bytes, bytes]]) -> Edit:
    """Return the edit that appends members to an object that has some, spaced as its own are.

    `more` has keys without quotation marks, and values.
    """
    first, last = found[0], found[-1]
    colon = text[first.start + len(first.key) + 2 : first.value] or b":"
    comma = text[first.end : found[1].start] if len(found) > 1 else b","
    new = b"".join(b'%b"%b"%b%b' % (comma, key, colon, value) for key, value in more)
    return Edit(last.end, last.end, new)


def edited(text: bytes, edits: Iterable[Edit]) -> bytes:
    """Return `text` with `edits`, which do not overlap, applied to it."""
    parts: list[bytes] = []
    at = 0
    for edit in sorted(edits, key=_start):
        parts += (text[at : edit.start], edit.new)
        at = edit.end
    return b"".join((*parts, text[at:]))


def on_one_line(text: bytes) -> bytes:
    """Return JSON without line ends, which are nothing but space in it."""
    return b"".join(text.splitlines())


def blanked(text: bytes, names: Collection[str]) -> bytes:
    """Return text that is no JSON with null for whatever looks like a member of one of `names`.

    A value without an end is cut off with all that follows. Text of a string is not touched, as
    quotation marks within a string are escaped.
    """
    if not names:
        return text
    pattern = b"|".join(re.escape(name.encode()) for name in names)
    edits: list[Edit] = []
    at = 0
    look = re.compile(rb'(?<!\\)"(?:' + pattern + rb')"[ \t\r\n]*:[ \t\r\n]*')
    while (key := look.search(text, at)) is not None:
        try:
            at = end_of_value(text, key.end())
        except Malformed:
            at = len(text)
        if text[key.end() : at] != NULL:
            edits.append(Edit(key.end(), at, NULL))
    return edited(text, edits) if edits else text


def _name(quoted: bytes) -> bytes:
    if b"\\" in quoted:
        try:
            return msgspec.json.decode(quoted, type=str).encode()
        except (msgspec.DecodeError, UnicodeError):
            pass
    return quoted[1:-1]


def _skipped(text: bytes, at: int) -> int:
    found = _space(text, at)
    return found.end() if found is not None else at


def _start(edit: Edit) -> int:
    return edit.start
