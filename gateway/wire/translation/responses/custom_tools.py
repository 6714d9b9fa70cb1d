"""Tools that take free text: the model sees a function with one string, as vLLM shows them.

So a call's arguments are JSON around the text. While they arrive, `Payload` gives what they have of
the text so far.
"""

import msgspec

PARAMETERS = msgspec.Raw(
    b'{"type":"object","properties":{"input":{"type":"string","description":'
    b'"The freeform text payload for this tool."}},"required":["input"],'
    b'"additionalProperties":false}'
)


class _Arguments(msgspec.Struct):
    input: str


_decode = msgspec.json.Decoder(_Arguments).decode
_decode_text = msgspec.json.Decoder(str).decode


def as_arguments(text: str) -> str:
    """Return `text` as the arguments of the function."""
    return '{"input": ' + msgspec.json.encode(text).decode() + "}"


def as_text(arguments: str) -> str:
    """Return the text in whole arguments; arguments that are not the function's are the text."""
    try:
        return _decode(arguments).input
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return arguments


class Payload:
    """The text in arguments that arrive in pieces: each call costs by its piece alone.

    Nothing is given of arguments that do not begin with the one string.
    """

    __slots__ = ("_buffer", "_open", "_over")

    def __init__(self) -> None:
        self._buffer = ""
        self._open = False
        self._over = False

    def feed(self, piece: str) -> str:
        """Return the text that `piece` adds."""
        if self._over:
            return ""
        self._buffer += piece
        if not self._open and not self._opened():
            return ""
        whole, self._buffer = self._whole(self._buffer)
        return _text(whole)

    def _opened(self) -> bool:
        begun = self._buffer.lstrip()
        compact = "".join(begun[:64].split())
        if compact.startswith('{"input":"'):
            self._open = True
            self._buffer = begun[begun.index('"', begun.index(":")) + 1 :]
        elif len(begun) > 64 or not '{"input":"'.startswith(compact):
            self._over = True
        return self._open

    def _whole(self, text: str) -> tuple[str, str]:
        """Split before what may be half of an escape, and look for the closing quote."""
        at = 0
        while at < len(text):
            if text[at] == '"':
                self._over = True
                return text[:at], ""
            if text[at] != "\\":
                at += 1
                continue
            size = _escape_size(text, at)
            if size == 0:
                break
            at += size
        return text[:at], text[at:]


def _escape_size(text: str, at: int) -> int:
    """Length of the escape at `at`, a pair of surrogates as one; 0 if more of it may follow."""
    if text[at + 1 : at + 2] != "u":
        return 2 if len(text) > at + 1 else 0
    if len(text) < at + 6:
        return 0
    if text[at + 2 : at + 4].lower() not in ("d8", "d9", "da", "db"):
        return 6
    following = text[at + 6 : at + 12]
    if not "\\u".startswith(following[:2]):
        return 6
    return 12 if len(following) == 6 else 0


def _text(inside: str) -> str:
    """Decode what stands between quotes; escapes that are none stay as they are."""
    if "\\" not in inside and inside.isprintable():
        return inside
    try:
        return _decode_text(f'"{inside}"')
    except (msgspec.DecodeError, UnicodeError):
        return inside
