"""How failures are told over gRPC: a code, a reason, and details that programs read.

The codes follow from the HTTP statuses of the same errors, and the reasons are their `error.code`
in upper case, so that both front ends tell the same of the same failure. Numbers and meanings of
the codes: https://grpc.io/docs/guides/status-codes/; details: https://google.aip.dev/193.
"""

import re
from collections.abc import Mapping
from enum import IntEnum

import msgspec

from gateway import NOT_JSON, CallError, Headers, error_message, get_header, retry_after

MAX_MESSAGE = 512
"""Maximum bytes of a message on the wire: with its details it has less than 4 KiB, because clients
refuse metadata beyond 8 KiB."""

MAX_TEXT = 100
"""Maximum bytes of a fact, and of another text in the details."""

MAX_NAME, MAX_MEMBERS = 40, 8
"""Maximum bytes of the name of a fact, and number of facts from a response."""

REASON = re.compile(r"[A-Za-z][A-Za-z0-9_]{1,62}")
"""What ErrorInfo takes for a reason; a worker may have anything there."""


class Code(IntEnum):
    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


MAX_DIGITS = 9
"""Maximum digits of a number of seconds."""

BY_STATUS: Mapping[int, tuple[Code, str]] = {
    400: (Code.INVALID_ARGUMENT, "invalid_request"),
    401: (Code.UNAUTHENTICATED, "invalid_api_key"),
    403: (Code.PERMISSION_DENIED, "permission_denied"),
    404: (Code.NOT_FOUND, "not_found"),
    405: (Code.UNIMPLEMENTED, "not_supported"),
    408: (Code.DEADLINE_EXCEEDED, "upstream_timeout"),
    409: (Code.ABORTED, "conflict"),
    413: (Code.RESOURCE_EXHAUSTED, "body_too_large"),
    422: (Code.INVALID_ARGUMENT, "invalid_request"),
    429: (Code.RESOURCE_EXHAUSTED, "rate_limit_exceeded"),
    499: (Code.CANCELLED, "caller_gone"),
    500: (Code.INTERNAL, "upstream_error"),
    501: (Code.UNIMPLEMENTED, "not_supported"),
    502: (Code.UNAVAILABLE, "upstream_error"),
    503: (Code.UNAVAILABLE, "no_worker"),
    504: (Code.DEADLINE_EXCEEDED, "upstream_timeout"),
}
"""The code for each HTTP status of a response, and the reason if the response has none."""

BY_REASON: Mapping[str, Code] = {
    "queue_full": Code.RESOURCE_EXHAUSTED,
    "queue_timeout": Code.RESOURCE_EXHAUSTED,
    "too_many_calls": Code.RESOURCE_EXHAUSTED,
    "context_length_exceeded": Code.INVALID_ARGUMENT,
}
"""Codes of errors that have several HTTP statuses."""

RETRIED = frozenset((Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED))
"""Codes after which a retry may help."""


class Status(msgspec.Struct, frozen=True):
    """How an RPC ended. `retry_after`: seconds until a retry may help; None: no retry helps.

    `final`: a retry by a program makes no sense, however long it waits. `reason` is an
    `error.code`, in lower case. `field` is the part of the request that was wrong. `facts` go to
    the metadata of ErrorInfo.
    """

    code: Code
    message: str = ""
    reason: str = ""
    retry_after: float | None = None
    field: str | None = None
    facts: Mapping[str, str] = {}
    final: bool = False


class Envelope(msgspec.Struct):
    """The error of a response, as OpenAI and the engines write it."""

    message: str | None = None
    code: str | int | None = None
    param: str | None = None


def of_error(error: CallError, facts: Mapping[str, str]) -> Status:
    """Return the status of one of the gateway's own errors; its body may have more to tell."""
    return of_response(error.status, error.headers, error.body(), facts)


def of_response(status: int, headers: Headers, body: bytes, facts: Mapping[str, str]) -> Status:
    """Return the status of an error response, whether the gateway sent it or a worker."""
    members = _members(body)
    told = members.pop("error", None)
    try:
        inner = msgspec.convert(told, Envelope)
    except msgspec.ValidationError:
        inner = Envelope()
    whole = error_message(told) if told is not None else members.pop("message", None)
    message = str(whole or f"the worker answered with status {status}")
    reason = inner.code if isinstance(inner.code, str) and REASON.fullmatch(inner.code) else ""
    if not reason and "maximum context length" in message:
        reason = "context_length_exceeded"
    return _status(status, reason, message, headers, inner.param, _known(members) | dict(facts))


def _members(body: bytes) -> dict[str, object]:
    try:
        found = msgspec.json.decode(body)
    except NOT_JSON:
        return {}
    return found if isinstance(found, dict) else {}


def _known(members: Mapping[str, object]) -> dict[str, str]:
    """Return the short members beside an error's envelope, such as the time of a cold start."""
    short = [(name, one) for name, one in members.items() if isinstance(one, str | int | float)]
    return {clipped(name, MAX_NAME): str(value) for name, value in short[:MAX_MEMBERS]}


def _status(
    status: int,
    reason: str,
    message: str,
    headers: Headers,
    field: str | None,
    facts: Mapping[str, str],
) -> Status:
    code, usual = BY_STATUS.get(status) or BY_STATUS[400 if status < 500 else 500]
    reason = reason or usual
    code = BY_REASON.get(reason, code)
    helps = code in RETRIED and status != 413
    return Status(
        code,
        clipped(message, MAX_MESSAGE),
        reason,
        _seconds(reason, headers) if helps else None,
        None if field is None else clipped(field, MAX_TEXT),
        {name: clipped(value, MAX_TEXT) for name, value in facts.items()},
        get_header(headers, b"x-should-retry") == b"false",
    )


def _seconds(reason: str, headers: Headers) -> float:
    """Return the seconds until a retry: at once if another process is ready."""
    if reason == "draining":
        return 0.0
    for name, unit in ((b"retry-after-ms", 1_000), (b"retry-after", 1)):
        value = get_header(headers, name) or b""
        if value.isdigit() and len(value) <= MAX_DIGITS:
            return int(value) / unit
    return retry_after(0)


def clipped(text: str, most: int) -> str:
    """Return the beginning of `text` that takes at most `most` bytes as HTTP/2 carries it.

    Each byte that is not printable takes three there.
    """
    text = text[:most].encode(errors="replace").decode()
    size = 0
    for at, one in enumerate(text):
        size += 1 if " " <= one <= "~" and one != "%" else 3 * len(one.encode())
        if size > most:
            return text[:at]
    return text
