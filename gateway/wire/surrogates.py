"""Lone halves of surrogate pairs in JSON, such as `\\ud83d` if a client has cut an emoji in two.

Some engines accept them, and no strict parser does. So the gateway reads a copy in which each is
U+FFFD, and sends the bytes as they came. Nothing here raises.
"""

import re
import secrets
from collections.abc import Callable

_MAYBE_LONE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F]"
    rb"|\\\\u[dD]"
)
"""Finds lone halves, and the text of one behind an escaped backslash, which is none."""

_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|u([dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
"""One escape, or a whole pair of them; the group is that of a lone half."""


def readable(body: bytes) -> bytes:
    r"""Return `body`, JSON, with `\ufffd` in the place of each lone half."""
    return _replaced(body, lambda _: rb"\ufffd")


def lone_half(body: bytes) -> int | None:
    """Return the position of the first lone half in `body`; None if there is none."""
    return next((found.start() for found in _ESCAPE.finditer(body) if found[1] is not None), None)


def guarded(body: bytes) -> tuple[bytes, Callable[[bytes], bytes]]:
    """Return `body` with marks in the place of lone halves, and a function that puts them back.

    That function takes any text in which the marks occur.
    """
    mark = secrets.token_hex(8).encode()  # nobody can guess it, so `body` does not hold it
    marks = re.compile(mark + b"(.{4})")
    return (
        _replaced(body, lambda half: mark + half),
        lambda text: marks.sub(rb"\\u\1", text),
    )


def _replaced(body: bytes, replacement: Callable[[bytes], bytes]) -> bytes:
    if not _MAYBE_LONE.search(body):
        return body
    return _ESCAPE.sub(lambda found: found[0] if found[1] is None else replacement(found[1]), body)
