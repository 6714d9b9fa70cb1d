"""Key of a call: its session, else a header, a field of its body, or the prompt's beginning."""

from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Raw

from gateway import Call, Fields, get_header
from gateway_plugins.stickiness.openings import (
    NOTHING,
    UNREADABLE,
    Unsure,
    opening,
    opening_at,
    opening_of,
)
from gateway_plugins.stickiness.ring import key_point

OPENINGS = ("messages", "prompt", "prompts", "input")
"""Body fields with the beginning of a call: chat, completions, TRL's /generate/, responses."""

_read_value = msgspec.json.Decoder(str | int | None).decode


class Key(msgspec.Struct, frozen=True):
    """`kind` is `session`, `header`, `prefix`, or `field:` and the name of a body field."""

    kind: str
    value: str

    def point(self) -> int:
        """Place of the key on the ring."""
        return key_point(self.kind, self.value)


class KeyReader:
    """Finds the key of a call. The parameters are the options of the same names."""

    def __init__(self, header: str | None, fields: Sequence[str], prefix_chars: int) -> None:
        self._header = header.lower().encode("latin-1") if header else None
        self._prefix_chars = prefix_chars
        names = dict.fromkeys((*fields, *(OPENINGS if prefix_chars else ())))
        # The decoder builds only the few values of a body that are used.
        attributes = {name: f"field_{place}" for place, name in enumerate(names)}
        self._fields = {name: attributes[name] for name in fields}
        self._openings = {name: attributes[name] for name in OPENINGS if name in attributes}
        asked = msgspec.defstruct(
            "Asked",
            [(attribute, Raw, NOTHING) for attribute in attributes.values()],
            rename={attribute: name for name, attribute in attributes.items()},
        )
        self._read = msgspec.json.Decoder(asked).decode if names else None

    def named(self, call: Call) -> Key | None:
        """Key of the call's session, else of its header; None if it has neither."""
        if call.session_id:
            return Key("session", call.session_id)
        if self._header is not None:
            value = get_header(call.headers, self._header)
            if value:
                return Key("header", value.decode("latin-1"))
        return None

    def of_request(self, call: Call) -> Key | None:
        """Key of the call's body, parsed or not."""
        data, fields = call.body.readable, call.body.fields
        if data is not None and fields is not None:
            return self.of_fields(data, fields)
        parsed = call.parsed
        if parsed is not None:
            try:
                return self.of_object(parsed)
            except Unsure:
                pass
        return self.of_body(data)

    def of_body(self, data: bytes | None) -> Key | None:
        """Key of a field of the body, else of its beginning.

        None if it has neither, or is not a JSON object.
        """
        if not data or self._read is None:
            return None
        try:
            asked = self._read(data)
        except UNREADABLE:
            return None
        return self._of_fields(asked) or self._of_opening(asked)

    def of_fields(self, data: bytes, fields: Fields) -> Key | None:
        """Return what `of_body` returns for `data`, whose fields these are."""
        for name in self._fields:
            if name in fields:
                value = fields[name]
                if type(value) is tuple:
                    value = _text_or_number(data[value[0] : value[1]])
                if type(value) is int or (value and type(value) is str):
                    return Key(f"field:{name}", str(value))
        for name in self._openings:
            if name in fields:
                try:
                    return self.prefix(opening_at(data, fields[name], self._prefix_chars))
                except UNREADABLE:
                    return None
        return None

    def of_object(self, body: Mapping[str, object]) -> Key | None:
        """Return what `of_body` returns for the JSON of this object.

        Raises Unsure if the object does not tell.
        """
        for name in self._fields:
            value = body.get(name)
            if type(value) is int or (value and isinstance(value, str)):
                return Key(f"field:{name}", str(value))
        for name in self._openings:
            if name in body:
                try:
                    return self.prefix(opening_of(body[name], self._prefix_chars))
                except ValueError:
                    return None
        return None

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
        for attribute in self._openings.values():
            raw: Raw = getattr(asked, attribute)
            if raw:
                try:
                    return self.prefix(opening(raw, self._prefix_chars))
                except UNREADABLE:
                    return None
        return None


def _text_or_number(raw: Raw | bytes) -> str:
    if not raw:
        return ""
    try:
        value = _read_value(raw)
    except UNREADABLE:
        return ""
    return "" if value is None else str(value)
