"""How failures are told over gRPC: a code, a reason, and details that programs read.

The codes follow from the HTTP statuses of the same errors, and the reasons are their `error.code`
in upper case, so that both front ends tell the same of the same failure. Numbers and meanings of
the codes: https://grpc.io/docs/guides/status-codes/; details: https://google.aip.dev/193.
"""

from collections.abc import Mapping
from enum import IntEnum

import msgspec

from gateway import NOT_JSON, CallError, Headers, error_message, get_header

MAX_MESSAGE = 1_024
"""Maximum characters of a message: clients refuse metadata beyond 8 KiB."""

MAX_REASON = 63
"""Maximum characters of a reason, as ErrorInfo has it."""

MAX_FACT = 200


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
    "context_length_exceeded": Code.INVALID_ARGUMENT,
}
"""Codes of errors that have several HTTP statuses."""

RETRIED = frozenset((Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED))
"""Codes after which a retry may help."""


class Status(msgspec.Struct, frozen=True):
    """How an RPC ended. `retry_after`: seconds until a retry may help; None: no retry helps.

    `reason` is an `error.code`, in lower case. `field` is the part of the request that was wrong.
    `facts` go to the metadata of ErrorInfo.
    """

    code: Code
    message: str = ""
    reason: str = ""
    retry_after: float | None = None
    field: str | None = None
    facts: Mapping[str, str] = {}


class Envelope(msgspec.Struct):
    """The error of a response, as OpenAI and the engines write it."""

    message: str | None = None
    code: str | int | None = None
    param: str | None = None


def of_error(error: CallError, facts: Mapping[str, str]) -> Status:
    """Return the status of one of the gateway's own errors."""
    return _status(error.status, error.code, error.message, error.headers, error.param, facts)


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
    reason = inner.code if isinstance(inner.code, str) and inner.code else ""
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
    short = {name: value for name, value in members.items() if isinstance(value, str | int | float)}
    return {name[:MAX_FACT]: str(value)[:MAX_FACT] for name, value in list(short.items())[:8]}


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
    seconds = get_header(headers, b"retry-after") or b""
    helps = code in RETRIED and status != 413
    after = float(seconds[:9]) if seconds.isdigit() else 0.0
    return Status(code, message[:MAX_MESSAGE], reason, after if helps else None, field, facts)
