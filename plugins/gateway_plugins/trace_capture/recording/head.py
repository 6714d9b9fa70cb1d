"""The short fields of a trace: all but its request, its tokens, and its response."""

from typing import Any, Literal, get_args

import msgspec

from gateway import Reason, Result, WireResponse

Receipt = Literal["failed", "part", "whole"]
"""What the caller got: an error in place of a response, a part of a response, or all of it."""

RECEIPTS: tuple[Receipt, ...] = get_args(Receipt)
"""The first one explains best why a caller asks again."""


class AttemptRecord(msgspec.Struct, array_like=True, frozen=True):
    """One attempt. Times are whole microseconds from the call's start.

    Of a stream that several workers sent: the `tokens` of this one, and the version of its weights.
    """

    worker: str
    started: int
    connected: int | None
    first_byte: int | None
    ended: int | None
    status: int | None
    error: str | None
    tokens: int | None = None
    version: int | str | None = None


class Head(msgspec.Struct, array_like=True, kw_only=True):
    """The short fields of a trace. Fields are only ever added, at the end, with a default.

    `parent` is the trace that the first prompt extends. `diverged_from` is the trace that shares
    the longest prefix with the first prompt beyond `parent`, and `diverged_choice` the position of
    the choice in it. They have `common_tokens` in common, and the next token of the prompt differs.
    `times` are queue, connect, TTFT, total, ITL p50 and p99 in whole microseconds. `whole`: a hook
    changed the trace, so the skeleton is the whole trace as JSON. `worker_version` is the version
    of the worker's weights when the last attempt began, `worker_version_end` the one when it ended,
    if it changed. `result` is how the call went; None in traces of version 0.1.
    `translated_from` is the API of the caller if the call was carried as `dialect`.
    `messages` are those of the choices, if they are not in the worker's response.
    `harness` has the fields of gateway.Harness, in order, `span` those of gateway.TraceSpan.
    `tokens` are those that are billed, prompt and completion; None if nobody counts.
    `wire` is the response as it came, if it is kept.
    """

    call_id: str = ""
    path: str = ""
    dialect: str | None = None
    streamed: bool = False
    response_id: str = ""
    worker: str | None = None
    principal: str | None = None
    attempts: list[AttemptRecord] = []
    injected: dict[str, Any] = {}
    overwritten: dict[str, Any] = {}
    sampling_params: dict[str, Any] = {}
    usage: dict[str, Any] | None = None
    engine_version: int | str | None = None
    admin_version: int | None = None
    times: list[int | None] = []
    status: int = 0
    bytes_sent: int = 0
    caller_gone: bool = False
    delivered: bool = False
    error: str | None = None
    reasons: list[Reason] = []
    choice_reasons: list[list[Reason]] = []
    parent: str | None = None
    diverged_from: str | None = None
    diverged_choice: int = 0
    common_tokens: int = 0
    retry_of: str | None = None
    metadata: dict[str, Any] = {}
    whole: bool = False
    worker_version: int | str | None = None
    worker_version_end: int | str | None = None
    result: Result | None = None
    tokens: list[int] | None = None
    repeated: bool = False
    translated_from: str | None = None
    messages: list[dict[str, Any]] = []
    harness: list[str | None] = []
    span: list[str | None] = []
    wire: WireResponse | None = None

    @property
    def receipt(self) -> Receipt:
        """What the caller got, as far as the gateway can know."""
        if self.status >= 400:
            return "failed"
        return "part" if self.caller_gone or not self.delivered else "whole"
