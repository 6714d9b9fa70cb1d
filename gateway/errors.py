"""The gateway's errors, and the response that the caller gets for each.

    GatewayError
    ├── ConfigError                 an operator's mistake, found at start-up; no caller sees it
    ├── CallerGone                  no caller is left to respond to
    │   └── CallerStalled
    ├── ChooseAgain                 raised by a hook that waited: the set of workers has changed
    ├── Answered                    raised by an `admit` that answers the call (calls/records.py)
    ├── StorageError                a statement to the database failed
    │   ├── StorageUnavailable      the file cannot be read or written now
    │   ├── ConstraintViolated      the rows contradict a constraint of their table
    │   └── InvalidStatement        a mistake in the code: parameters are missing or of wrong types
    └── CallError                   sent in OpenAI's envelope; `status` and `code` below
        ├── BadRequest              400 invalid_request
        │   ├── InvalidHTTP         400 invalid_http
        │   └── InvalidJSON         400 invalid_json
        ├── Unauthorized            401 invalid_api_key
        ├── Forbidden               403 permission_denied
        ├── NotFound                404 not_found
        ├── HeaderTimeout           408 request_header_timeout
        ├── BodyTimeout             408 request_body_timeout
        ├── WorkerExists            409 worker_exists
        ├── BodyTooLarge            413 body_too_large
        ├── TooManyRequests         429 rate_limit_exceeded
        ├── HookFailed              500 hook_failed
        ├── InternalError           500 internal_error
        ├── NotSupported            501 not_supported
        ├── UpstreamError           502 upstream_error
        │   ├── ConnectFailed       502 upstream_connect_failed
        │   ├── UpstreamClosed      502 upstream_closed
        │   └── UpstreamProtocol    502 upstream_protocol_error
        ├── NoWorker                503 no_worker
        │   ├── OutOfSockets        503 out_of_sockets
        │   ├── TooManyCalls        503 too_many_calls
        │   └── Draining            503 draining
        │       └── DrainTimeout    503 drain_timeout
        ├── StorageFailed           503 storage_unavailable
        ├── ProcessBusy             503 process_busy
        └── UpstreamTimeout         504 upstream_timeout
            ├── ConnectTimeout      504 upstream_connect_timeout
            ├── FirstByteTimeout    504 upstream_first_byte_timeout
            ├── IdleTimeout         504 upstream_idle_timeout
            └── TotalTimeout        504 upstream_total_timeout

A plugin rejects a call by raising a CallError from a deciding hook; any other exception there, and
an Answered or a ChooseAgain of another hook than the one it is for, becomes a HookFailed. The
envelope is `{"error": {"message", "type", "param", "code"}}`; a worker's response is never wrapped
in it.
"""

from math import ceil

import msgspec

NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises if bytes of others are no JSON, not of the wanted type, or nest too deep."""


MIN_RETRY_AFTER = 1
"""Minimum of `Retry-After` in seconds."""

MAX_RETRY_AFTER = 59
"""Maximum of `Retry-After` in seconds, for the gateway and its plugins.

Some clients sleep all of it, however long, in silence. The AI SDK ignores waits of 60 seconds and
more and comes back after two, see findings/retry_after_60_is_2_in_ai_sdk.sh.
"""


def retry_after(seconds: float) -> int:
    """Return a wait as `Retry-After` may have it: whole seconds, within the bounds."""
    return ceil(min(max(seconds, MIN_RETRY_AFTER), MAX_RETRY_AFTER))


class GatewayError(Exception):
    """Base class of all exceptions that the gateway itself raises."""


class ConfigError(GatewayError):
    """The configuration cannot be used. `problems` has one line for each mistake."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class CallerGone(GatewayError):
    """The caller closed its connection."""


class CallerStalled(CallerGone):
    """The caller read nothing for `seconds` (timeouts.idle), so its call is ended."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the caller took nothing in for {seconds} s (timeouts.idle)")


class ChooseAgain(GatewayError):
    """Raised in `filter_workers` or `pick_worker` after a wait, to choose again.

    The core then runs both hooks again with the workers that are fit at that moment.
    """


class CallError(GatewayError):
    """Ends a call with `status` and an OpenAI error body.

    `message` goes to the caller as it is: it must never contain a key, a prompt or a worker's
    address. `headers` are added to the response (for example `Retry-After`).
    """

    status = 500
    code = "internal_error"
    type = "server_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or type(self).code
        self.headers = headers

    def body(self) -> bytes:
        """Return the JSON envelope of this error."""
        inner = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        return msgspec.json.encode({"error": inner})

    def event(self) -> bytes:
        """Return the SSE event that reports this error within a stream.

        Clients that retry decide by a number in `code`, by the type `server_error`, or by such
        words in the message. So `code` is the status, and `gateway_code` the code of `body`.
        """
        failed = self.status >= 500
        inner = {
            "message": f"{self.status} server error: {self.message}" if failed else self.message,
            "type": "server_error" if failed else self.type,
            "param": self.param,
            "code": self.status,
            "gateway_code": self.code,
        }
        data = msgspec.json.encode({"type": "error", "error": inner})
        return b"event: error\ndata: " + data + b"\n\n"


class BadRequest(CallError):
    status = 400
    code = "invalid_request"
    type = "invalid_request_error"


class InvalidHTTP(BadRequest):
    """The caller's bytes are no HTTP/1.1 request, or its header or trailer is too large."""

    code = "invalid_http"


class InvalidJSON(BadRequest):
    code = "invalid_json"


class Unauthorized(CallError):
    status = 401
    code = "invalid_api_key"
    type = "authentication_error"


class Forbidden(CallError):
    status = 403
    code = "permission_denied"
    type = "permission_error"


class NotFound(CallError):
    status = 404
    code = "not_found"
    type = "invalid_request_error"


class WorkerExists(CallError):
    """A worker is to be added, and one with other settings has its id or its URL."""

    status = 409
    code = "worker_exists"
    type = "invalid_request_error"


class HeaderTimeout(CallError):
    """The caller took longer than `timeouts.header` seconds to send the header of its request."""

    status = 408
    code = "request_header_timeout"
    type = "invalid_request_error"

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the header was not complete within {seconds} s (timeouts.header)")


class BodyTimeout(CallError):
    """The caller sent nothing more of its request body for `timeouts.idle` seconds."""

    status = 408
    code = "request_body_timeout"
    type = "invalid_request_error"


class BodyTooLarge(CallError):
    status = 413
    code = "body_too_large"
    type = "invalid_request_error"


class TooManyRequests(CallError):
    status = 429
    code = "rate_limit_exceeded"
    type = "rate_limit_error"


class HookFailed(CallError):
    """A deciding hook failed, so the call is rejected: no call passes unchecked."""

    code = "hook_failed"


class InternalError(CallError):
    """The gateway itself failed; the log has the traceback under the call's id."""


class NotSupported(CallError):
    """What HTTP allows and the gateway does not do: WebSockets, tunnels."""

    status = 501
    code = "not_supported"
    type = "invalid_request_error"


class UpstreamError(CallError):
    status = 502
    code = "upstream_error"
    type = "upstream_error"


class ConnectFailed(UpstreamError):
    """No connection to the worker: no part of the call has reached the worker."""

    code = "upstream_connect_failed"


class UpstreamClosed(UpstreamError):
    """The worker closed or reset the connection before its response was complete."""

    code = "upstream_closed"


class UpstreamProtocol(UpstreamError):
    """The worker sent invalid HTTP/1.1, or more than the limits allow."""

    code = "upstream_protocol_error"


class NoWorker(CallError):
    status = 503
    code = "no_worker"
    type = "overloaded_error"

    def __init__(self, message: str, *, retry_after: int = 1) -> None:
        super().__init__(message, headers=((b"retry-after", b"%d" % retry_after),))


class TooManyCalls(NoWorker):
    """`server_limits.max_calls` calls are in flight already."""

    code = "too_many_calls"


class OutOfSockets(NoWorker):
    """This machine has no descriptor left for a connection to a worker."""

    code = "out_of_sockets"

    def __init__(self) -> None:
        super().__init__("the gateway has no descriptor left for a connection to a worker")


class Draining(NoWorker):
    """The gateway is shutting down: no worker was given the call."""

    code = "draining"


class DrainTimeout(Draining):
    """The gateway is shutting down and ends a call that a worker may have run (timeouts.drain)."""

    code = "drain_timeout"


class StorageFailed(CallError):
    """The embedded database can be neither read nor written now. Never raised for calls."""

    status = 503
    code = "storage_unavailable"


class ProcessBusy(CallError):
    """Another process of this gateway does not finish a change. Never raised for calls."""

    status = 503
    code = "process_busy"


class UpstreamTimeout(CallError):
    """The worker took longer than `seconds`; the subclass names the phase."""

    status = 504
    code = "upstream_timeout"
    type = "timeout_error"
    what = "the worker did not finish within {} s"

    def __init__(self, seconds: float) -> None:
        super().__init__(self.what.format(seconds))


class ConnectTimeout(UpstreamTimeout):
    code = "upstream_connect_timeout"
    what = "no connection to the worker within {} s (timeouts.connect)"


class FirstByteTimeout(UpstreamTimeout):
    code = "upstream_first_byte_timeout"
    what = "the worker began no answer within {} s (timeouts.first_byte)"


class IdleTimeout(UpstreamTimeout):
    code = "upstream_idle_timeout"
    what = "the worker neither sent nor took in anything for {} s (timeouts.idle)"


class TotalTimeout(UpstreamTimeout):
    code = "upstream_total_timeout"
    what = "the call took longer than {} s (timeouts.total)"


class StorageError(GatewayError):
    """A statement to the database failed. The engine's own error is the cause."""


class StorageUnavailable(StorageError):
    """The file cannot be read or written now; the message is the reason."""


class ConstraintViolated(StorageError):
    """The rows contradict a constraint of their table, such as UNIQUE or NOT NULL."""


class InvalidStatement(StorageError):
    """A mistake in the code: parameters are missing or of wrong types."""
