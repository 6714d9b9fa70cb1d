"""Errors in Anthropic's envelope."""

import msgspec

from gateway.errors import NOT_JSON
from gateway.wire.error_body import error_message

BY_STATUS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}

OURS = frozenset({"server_error", "upstream_error"})
"""Types that Anthropic has another name for."""


ACTED_ON = frozenset({"thread_unsupported_request"})
"""Codes by which Anthropic's clients know what to do; they read them in `details`."""


class _Error(msgspec.Struct):
    message: str
    type: str | None = None
    code: int | str | None = None


class _Details(msgspec.Struct):
    """What Anthropic's clients read of an error that they may mend themselves."""

    error_code: str


class _Told(msgspec.Struct, omit_defaults=True):
    """An error as Anthropic's clients read it; `code` is the gateway's own, for programs."""

    type: str
    message: str
    code: str | None = None
    details: _Details | None = None


class _Body(msgspec.Struct):
    error: _Error


class _AnyBody(msgspec.Struct):
    error: object


def type_of(status: int) -> str:
    """Return the type of an error with this status."""
    return BY_STATUS.get(status) or ("api_error" if status >= 500 else "invalid_request_error")


def refusal(status: int, body: bytes, call_id: str) -> bytes:
    """Return the body of an error response; `body` is the worker's, or the gateway's own."""
    inner = _read(status, body)
    return msgspec.json.encode({"type": "error", "error": inner, "request_id": call_id})


def error_event(raw: bytes) -> bytes:
    """Return the event of an error; `raw` is the value of `error` in a chat event.

    An event has no status, so clients go by its type: agents ask again after one of Anthropic's
    types, and end the run after a type that they do not know.
    """
    try:
        error: object = msgspec.json.decode(raw)
    except NOT_JSON:
        error = None
    code = error.get("code") if isinstance(error, dict) else None
    status = code if isinstance(code, int) else 500
    kind = error.get("type") if isinstance(error, dict) else None
    told = kind if kind in BY_STATUS.values() else type_of(status)
    inner = {"type": told, "message": error_message(error) or "the engine failed"}
    data = msgspec.json.encode({"type": "error", "error": inner})
    return b"event: error\ndata: %b\n\n" % data


def _read(status: int, body: bytes) -> _Told:
    try:
        found = msgspec.json.decode(body, type=_Body).error
        code = found.code if isinstance(found.code, str) else None
        # An engine has numbers as codes, and types of its own, which its Messages has too.
        kind = _kind(found.type, status) if code is None else type_of(status)
        details = _Details(code) if code in ACTED_ON else None
        return _Told(kind, found.message, code, details)
    except NOT_JSON:
        pass
    try:
        message = error_message(msgspec.json.decode(body, type=_AnyBody).error)
    except NOT_JSON:
        message = body.decode(errors="replace").strip()[:2_000]
    return _Told(type_of(status), message or f"the worker answered {status}")


def _kind(given: object, status: int) -> str:
    if isinstance(given, str) and given and given not in OURS:
        return given
    return type_of(status)
