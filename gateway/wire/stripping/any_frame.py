"""The quick way through streams with choices in any key order, compact or spaced.

Slower than `fast_strip.Frame`, which knows the key order of vLLM's choices, but several times as
fast as to search the whole event.
"""

from collections.abc import Collection

import msgspec
from msgspec import Raw

from gateway.errors import NOT_JSON
from gateway.kernel.interface import Functions

_NULL = Raw(b"null")
_EMPTY_OBJECT = Raw(b"{}")
_ABSENT = Raw(b"")

_decode = msgspec.json.Decoder(dict[str, Raw]).decode
_encode = msgspec.json.Encoder().encode


class AnyFrame:
    """The bytes around the one choice of an event, and which of its fields are nulled or go.

    `omits_null` and `no_logprobs` are what `Unasked` has found of the engine so far. An event that
    would tell more of it is left to the slow way.
    """

    __slots__ = (
        "_after",
        "_before",
        "_blank",
        "_drop_empty",
        "_fields",
        "_ids",
        "_logprobs",
        "_no_logprobs",
        "_omits_null",
        "_spaced",
    )

    def __init__(
        self,
        before: bytes,
        after: bytes,
        blank: Collection[str],
        *,
        spaced: bool,
        drop_empty: bool,
        omits_null: bool,
        no_logprobs: bool,
    ) -> None:
        self._before = before
        self._after = after
        self._blank = tuple(blank)
        self._fields = frozenset(blank)
        self._ids = "token_ids" in blank
        self._logprobs = "logprobs" in blank
        self._spaced = spaced
        self._drop_empty = drop_empty
        self._omits_null = omits_null
        self._no_logprobs = no_logprobs

    def cut(self, _: Functions) -> None:
        """Return None: no kernel strips events of such a form."""

    def strip_one(self, raw: bytes) -> bytes | None:
        """Strip one event as `Frame.strip_one` does; None if the slow way has to."""
        before, after = self._before, self._after
        if not (raw.startswith(before) and raw.endswith(after)):
            return None
        bare = raw[len(before) : -len(after)]
        choice = _choice(bare)
        if choice is None or not self._is_known(choice):
            return None
        if self._fields.isdisjoint(choice):
            return raw  # a worker that did not send what it was asked for
        if write_choice(choice, spaced=self._spaced) != bare:
            return None
        told = [name for name in self._blank if choice.get(name, _NULL) != _NULL]
        if not told:
            return raw
        if self._drop_empty and choice.get("delta") == _EMPTY_OBJECT:
            return b""
        for name in told:
            if self._omits_null or (name == "logprobs" and self._no_logprobs):
                del choice[name]
            else:
                choice[name] = _NULL
        return before + write_choice(choice, spaced=self._spaced) + after

    def strip_run(self, text: bytes) -> tuple[bytes, int] | None:
        """None: events that come in one read are stripped one by one."""
        return None

    def _is_known(self, choice: dict[str, Raw]) -> bool:
        """Whether the choice goes on, and shows nothing new of the engine."""
        reason = choice.get("finish_reason", _ABSENT)
        if reason != _NULL and not (reason is _ABSENT and self._omits_null):
            return False
        if self._ids and "provider_specific_fields" in choice:
            return False
        if self._logprobs and not self._no_logprobs:
            return "logprobs" in choice and not is_appended(list(choice))
        return True


def any_frame_of(
    text: bytes,
    span: tuple[int, int],
    blank: Collection[str],
    *,
    drop_empty: bool,
    omits_null: bool,
    no_logprobs: bool,
) -> AnyFrame | None:
    """Return the frame around the choice `text[slice(*span)]`; None if its form is unusual."""
    start, end = span
    for spaced in (False, True):
        if exact_choice(text[start:end], spaced=spaced) is not None:
            return AnyFrame(
                b"data: " + text[:start],
                text[end:] + b"\n\n",
                blank,
                spaced=spaced,
                drop_empty=drop_empty,
                omits_null=omits_null,
                no_logprobs=no_logprobs,
            )
    return None


def exact_choice(bare: bytes, *, spaced: bool) -> dict[str, Raw] | None:
    """Decode a choice; None if encoding it again would not give the same bytes on one line."""
    choice = _choice(bare)
    return choice if choice is not None and write_choice(choice, spaced=spaced) == bare else None


def _choice(bare: bytes) -> dict[str, Raw] | None:
    """Decode a choice that is one line of JSON."""
    if bare.find(b"\n") >= 0 or bare.find(b"\r") >= 0:
        return None
    try:
        return _decode(bare)
    except NOT_JSON:
        return None


def write_choice(choice: dict[str, Raw], *, spaced: bool) -> bytes:
    """Encode a choice, with a space after each colon and comma of its own if `spaced`."""
    if not spaced:
        return _encode(choice)
    items = [b"%b: %b" % (_encode(name), value) for name, value in choice.items()]
    return b"{%b}" % b", ".join(items)


def is_appended(keys: list[str]) -> bool:
    """Whether `logprobs` follows the message and the finish reason in a choice of unsorted keys."""
    place = keys.index("logprobs")
    before = keys[:place]
    said = "message" in before or "delta" in before
    return said and "finish_reason" in before and keys != sorted(keys)
