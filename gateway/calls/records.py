"""The records of a call: its principal, its attempts at workers, and its outcome."""

from collections.abc import AsyncIterable, Mapping
from typing import Literal

import msgspec

from gateway.errors import CallError
from gateway.fleet.worker import Worker
from gateway.headers import Headers
from gateway.wire.injection import NO_INJECTIONS, Injection
from gateway.wire.usage import Usage

Source = Literal["realtime", "batch", "eval"]
"""Kind of work that a call belongs to."""


class Principal(msgspec.Struct, frozen=True):
    """The identity of a caller, set by an `authenticate` hook. `id` may be logged, a key never.

    `scopes` are its permissions, see gateway.pipeline.authorization. `models` (names) and
    `workers` (ids) are the only ones that it may use; None: any. `labels` are an operator's own
    tags, for plugins that distinguish principals.
    """

    id: str
    scopes: frozenset[str] = frozenset({"realtime"})
    models: frozenset[str] | None = None
    workers: frozenset[str] | None = None
    labels: Mapping[str, str] = {}


class Attempt(msgspec.Struct):
    """One try at a worker. Times are `time.monotonic()` seconds, None if not reached.

    `left_out` are the injections omitted this time because the worker rejected the attempt before
    with them. `last`: the response is forwarded whatever it says. `weight_version` is the
    worker's weight version when the attempt began, `weight_version_end` when it ended.
    """

    worker: Worker
    started: float
    reused: bool = False
    connected: float | None = None
    first_byte: float | None = None
    ended: float | None = None
    status: int | None = None
    error: CallError | None = None
    left_out: frozenset[Injection] = NO_INJECTIONS
    last: bool = False
    weight_version: int | str | None = None
    weight_version_end: int | str | None = None

    @property
    def result(self) -> str:
        """The error's code, the status, or `gone` if the attempt ended without either."""
        if self.error is not None:
            return self.error.code
        return "gone" if self.status is None else str(self.status)


class Outcome(msgspec.Struct):
    """The end of a call, as its caller saw it.

    `status` is 0 if the caller left before anything was sent. `complete` means that the whole
    response of the worker (or of the gateway itself) has arrived; its last bytes are about to be
    sent. `ttft` and `duration` are seconds from the call's start, `bytes_sent` is the size of the
    response body in bytes. `failures` names the plugins whose isolated hooks failed: the records of
    these plugins are incomplete.
    """

    status: int = 0
    complete: bool = False
    caller_gone: bool = False
    error: CallError | None = None
    ttft: float | None = None
    duration: float = 0.0
    bytes_sent: int = 0
    usage: Usage | None = None
    failures: list[str] = []


class Answer(msgspec.Struct):
    """The response of a `handle` hook, in place of a worker's.

    `body` is the whole body, or an asynchronous iterable of chunks (for SSE, events).
    """

    status: int = 200
    headers: Headers = ()
    body: bytes | AsyncIterable[bytes] = b""
