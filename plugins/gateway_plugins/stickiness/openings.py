"""How a prompt begins: text, token ids, messages, or the first of several of these.

Messages count up to the first one that is not the system's, as later turns of a conversation begin
with the same ones. Both functions return the same text, about as long as asked or longer if the
prompt is that long, and raise one of UNREADABLE if the prompt cannot be read.
"""

import re
from collections.abc import Sequence

import msgspec
from msgspec import Raw

from gateway import Field

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError)

CHARACTERS_PER_ID = 4
"""Characters that a token id counts for."""

ID_CHARACTERS = 20
"""Maximum characters of a token id that are looked at."""

MAX_DEPTH = 3
"""Maximum nesting: TRL's /chat/ has lists of conversations; nothing is nested deeper."""

MAX_ID = 1 << 63

NOTHING = Raw(b"")

SYSTEM = ("system", "developer")
"""Roles of messages that many conversations begin with."""

_QUOTE, _BRACKET, _BRACE, _DIGITS = b'"'[0], b"["[0], b"{"[0], b"0123456789"

_ids_at = re.compile(rb"\[[\d, \t\r\n]*").match


class Unsure(Exception):
    """A parsed prompt does not tell how it was written; `opening` must read the text itself."""


class _Message(msgspec.Struct):
    role: str = ""
    content: Raw = NOTHING


class _Part(msgspec.Struct):
    text: str | None = None


_read_text = msgspec.json.Decoder(str).decode
_read_list = msgspec.json.Decoder(list[Raw]).decode
_read_message = msgspec.json.Decoder(_Message).decode
_read_content = msgspec.json.Decoder(str | list[_Part] | None).decode


def opening(raw: Raw, most: int, depth: int = MAX_DEPTH) -> str:
    """Return how a prompt begins that is still JSON."""
    view = memoryview(raw)
    if view[0] == _QUOTE:
        return _read_text(raw)
    if view[0] != _BRACKET or not depth:
        return ""
    ids = _begin_of_ids(view, _ids(most))
    if ids is not None:
        return ids
    items = _read_list(raw)
    if not items:
        return ""
    first = memoryview(items[0])[0]
    if first == _BRACE:
        return _opening_of_messages(items, most)
    if first in _DIGITS:
        return " ".join(_written(item) for item in items[: _ids(most)])
    return opening(items[0], most, depth - 1)


def opening_of(value: object, most: int, depth: int = MAX_DEPTH) -> str:
    """Return how a prompt begins that is parsed. Raises Unsure."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value or not depth:
        return ""
    first = value[0]
    if isinstance(first, dict):
        return _opening_of_objects(value, most)
    if isinstance(first, int | float) and not isinstance(first, bool):
        return _text_of_ids(value[: _ids(most)])
    return opening_of(first, most, depth - 1)


def opening_at(data: bytes, field: Field, most: int) -> str:
    """Return how the prompt `field` of a request begins, one of those that the kernel has read.

    `data` is the request.
    """
    if type(field) is not tuple:
        return field if type(field) is str else ""
    if field[2:] and data[field[2]] == _BRACE:
        text = _opening_of_first(data, field, most)
        if text is not None:
            return text
    return opening(Raw(data[field[0] : field[1]]), most)


def _opening_of_first(data: bytes, messages: tuple[int, ...], most: int) -> str | None:
    """Return the opening that ends in the first message or in the second; None: it goes on."""
    message = _read_message(data[messages[2] : messages[3]])
    text = _text_of(message.content)
    if message.role not in SYSTEM or len(text) >= most or not messages[4:]:
        return text
    message = _read_message(data[messages[4] : messages[5]])
    more = _text_of(message.content)
    ends = message.role not in SYSTEM or len(text) + len(more) >= most
    return f"{text}\n{more}" if ends else None


def _written(number: Raw) -> str:
    return bytes(memoryview(number)[:ID_CHARACTERS]).decode()


def _ids(most: int) -> int:
    return max(1, most // CHARACTERS_PER_ID)


def _begin_of_ids(prompt: memoryview, count: int) -> str | None:
    """Return the first token ids of a long list without reading all of the list.

    None if these are not `count` plain numbers.
    """
    length = count * (ID_CHARACTERS + 2)
    if len(prompt) <= length:
        return None
    found = _ids_at(prompt, 0, length)
    ids = [] if found is None else bytes(found[0])[1:].split(b",", count)
    if len(ids) <= count or not ids[0]:
        return None
    return " ".join(one.strip()[:ID_CHARACTERS].decode() for one in ids[:count])


def _text_of_ids(items: Sequence[object]) -> str:
    """Return token ids as a request has them: 0 may have been -0 there, and 1e2 is not 100."""
    ids = [str(item) for item in items if type(item) is int and 0 < item < MAX_ID]
    if len(ids) != len(items):
        raise Unsure
    return " ".join(ids)


def _opening_of_messages(items: Sequence[Raw], most: int) -> str:
    texts: list[str] = []
    length = 0
    for item in items:
        message = _read_message(item)
        texts.append(_text_of(message.content))
        length += len(texts[-1])
        if length >= most or message.role not in SYSTEM:
            break
    return "\n".join(texts)


def _text_of(content: Raw) -> str:
    """Text of a message's content, which is a string or parts of which some have text."""
    if not content:
        return ""
    said = _read_content(content)
    if type(said) is list:
        return "\n".join(part.text for part in said if part.text)
    return said or ""


def _opening_of_objects(items: Sequence[object], most: int) -> str:
    texts: list[str] = []
    length = 0
    for item in items:
        role = item.get("role", "") if isinstance(item, dict) else None
        if not isinstance(item, dict) or not isinstance(role, str):
            raise ValueError("a message is an object, and its role a text")
        texts.append(_text_of_parsed(item.get("content")))
        length += len(texts[-1])
        if length >= most or role not in SYSTEM:
            break
    return "\n".join(texts)


def _text_of_parsed(content: object) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise ValueError("content is a text or a list of parts")
    return "\n".join(text for part in content if (text := _text_of_part(part)))


def _text_of_part(part: object) -> str | None:
    text = part.get("text") if isinstance(part, dict) else part
    if not isinstance(part, dict) or not (text is None or isinstance(text, str)):
        raise ValueError("a part is an object, and its text a text")
    return text
