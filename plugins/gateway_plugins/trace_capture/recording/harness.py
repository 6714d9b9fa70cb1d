"""The name of the program that made a call, if no plugin knows its harness."""

import re

from gateway import Headers, get_header

UNKNOWN = "unknown"
"""The name of those who say nothing of themselves."""

MAX_NAME = 60
"""Characters of a name: a caller chooses it."""

_PRODUCT = re.compile(rb"[!-.0-~]+(?:/[A-Za-z][!-.0-~]*)*")
"""What stands before the first version or space: `OpenAI/Python`, `python-httpx`."""


def product_of(headers: Headers) -> str:
    """Return the product that the user agent names, UNKNOWN if it names none.

    Whatever a caller sends, the name is short and printable.
    """
    found = _PRODUCT.match(get_header(headers, b"user-agent") or b"")
    return UNKNOWN if found is None else found[0].decode()[:MAX_NAME]
