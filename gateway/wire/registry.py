"""The dialects that the gateway knows, by path."""

from urllib.parse import unquote

from gateway.wire.dialect import Dialect
from gateway.wire.openai import CHAT, COMPLETIONS


def dialect_of(path: str) -> Dialect | None:
    """Return the dialect of a request path, or None if the path has no dialect.

    `path` is the path as the caller sent it, without the query.
    """
    return _BY_PATH.get(unquote(path) if "%" in path else path)  # decoded as the worker does


_BY_PATH = {"/v1/chat/completions": CHAT, "/v1/completions": COMPLETIONS}
