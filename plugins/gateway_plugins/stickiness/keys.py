"""Key of a call: its session, else a header, a field of its body, or the prompt's beginning."""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Raw

from gateway import Call, get_header
from gateway_plugins.stickiness.ring import key_point

OPENINGS = ("messages", "prompt", "prompts", "input")
"""Body fields with the beginning of a call: chat, completions, TRL's /generate/, responses."""

NOTHING = Raw(b"")

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError)

CHARACTERS_PER_ID = 4
"""Characters that a token id counts for."""

MAX_DEPTH = 3
"""Maximum nesting: TRL's /chat/ has lists of conversations; nothing is nested deeper."""


class Key(msgspec.Struct, frozen=True):
    """`kind` is `session`, `header`, `prefix`, or `field:` and the name of a body field."""

    kind: str
    value: str

    def point(self) -> int:
        """Place of the key on the ring."""
        return key_point(self.kind, self.value)


class _Message(msgspec.Struct):
    role: str = ""
    content: Raw = NOTHING


class _Part(msgspec.Struct):
    text: str | None = None


class KeyReader:
    """Finds the key of a call. The parameters are the options of the same names."""

    def __init__(self, header: str | None, fields: Sequence[str], prefix_chars: int) -> None:
        self._header = header.lower().encode("latin-1") if header else None
        self._prefix_chars = prefix_chars
        names = dict.fromkeys((*fields, *(OPENINGS if prefix_chars else ())))
        # The decoder builds only the few values of a body that are used.
        attributes = {name: f"field_{place}" for place, name in enumerate(names)}
        self._fields = {name: attributes[name] for name in fields}
        self._openings = [attributes[name] for name in OPENINGS if name in attributes]
        self._type = msgspec.defstruct(
            "Asked",
            [(attribute, Raw, NOTHING) for attribute in attributes.values()],
            rename={attribute: name for name, attribute in attributes.items()},
        )

    def named(self, call: Call) -> Key | None:
        """Key of the call's session, else of its header; None if it has neither."""
        if call.session_id:
            return Key("session", call.session_id)
        if self._header is not None:
            value = get_header(call.headers, self._header)
            if value:
                return Key("header", value.decode("latin-1"))
        return None

    def of_body(self, data: bytes | None) -> Key | None:
        """Key of a field of the body, else of its beginning.

        None if it has neither, or is not a JSON object.
        """
        if not data or not self._type.__struct_fields__:
            return None
        try:
            asked = msgspec.json.decode(data, type=self._type)
        except UNREADABLE:
            return None
        return self._of_fields(asked) or self._of_opening(asked)

    def prefix(self, text: str) -> Key | None:
        """Key of calls that begin with `text`; None if that is empty."""
        text = text.strip()[: self._prefix_chars].lower()
        return Key("prefix", text) if text else None

    def _of_fields(self, asked: msgspec.Struct) -> Key | None:
        for name, attribute in self._fields.items():
            value = _text_or_number(getattr(asked, attribute))
            if value:
                return Key(f"field:{name}", value)
        return None

    def _of_opening(self, asked: msgspec.Struct) -> Key | None:
        for attribute in self._openings:
            raw: Raw = getattr(asked, attribute)
            if raw:
                try:
                    return self.prefix(opening(raw, self._prefix_chars))
                except UNREADABLE:
                    return None
        return None


def _text_or_number(raw: Raw) -> str:
    if not raw:
        return ""
    try:
        value = msgspec.json.decode(raw, type=str | int | None)
    except UNREADABLE:
        return ""
    return "" if value is None else str(value)


def opening(raw: Raw, most: int, depth: int = MAX_DEPTH) -> str:
    """Return how a prompt begins: text, token ids, messages, or the first of several of these.

    Messages count up to the first one that is not the system's, as later turns of a conversation
    begin with the same ones. The result has about `most` characters or more, if the prompt has so
    many. Raises ValueError if the prompt cannot be parsed.
    """
    begins = _begin(raw, 2)
    if begins[:1] == b'"':
        return msgspec.json.decode(raw, type=str)
    if begins[:1] != b"[" or not depth:
        return ""
    items = msgspec.json.decode(raw, type=list[Raw])
    if not items:
        return ""
    first = _begin(items[0], 1)
    if first == b"{":
        return _opening_of_messages(items, most)
    if first.isdigit():
        return " ".join(_begin(item, 20).decode() for item in items[: _ids(most)])
    return opening(items[0], most, depth - 1)


def _begin(raw: Raw, length: int) -> bytes:
    return bytes(memoryview(raw)[:length])


def _ids(most: int) -> int:
    return max(1, most // CHARACTERS_PER_ID)


def _opening_of_messages(items: Sequence[Raw], most: int) -> str:
    texts: list[str] = []
    length = 0
    for item in items:
        message = msgspec.json.decode(item, type=_Message)
        texts.append(_text_of(message.content))
        length += len(texts[-1])
        if length >= most or message.role not in ("system", "developer"):
            break
    return "\n".join(texts)


def _text_of(content: Raw) -> str:
    """Text of a message's content, which is a string or parts of which some have text."""
    if not content:
        return ""
    said: Any = msgspec.json.decode(content, type=str | list[_Part] | None)
    if isinstance(said, list):
        return "\n".join(part.text for part in said if part.text)
    return said or ""
