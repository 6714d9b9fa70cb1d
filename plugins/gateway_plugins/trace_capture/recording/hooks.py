"""Runs the hooks `redact_trace`, before a trace is stored, and `trace_recorded`, after it is."""

import logging
import threading
from queue import Full, Queue

import msgspec

from gateway import Host, Outcome, Trace
from gateway_plugins.trace_capture.recording.public_trace import trace_of
from gateway_plugins.trace_capture.recording.record import Record

log = logging.getLogger("gateway.trace_capture")

_encode = msgspec.json.Encoder().encode

STOP_TIMEOUT = 5.0
"""Seconds to wait at shutdown for the hook to process queued traces."""


class Hooks:
    """Runs both hooks; `dropped` counts the traces that `trace_recorded` was too slow for."""

    def __init__(self, offered: int) -> None:
        self.dropped = 0
        self._offered: Queue[Trace | None] = Queue(offered)
        self._gateway: Host | None = None
        self._thread: threading.Thread | None = None

    def start(self, gateway: Host) -> None:
        self._gateway = gateway

    def set_queue_size(self, offered: int) -> None:
        """Set how many traces may wait in the queue."""
        with self._offered.mutex:
            self._offered.maxsize = offered

    @property
    def has_redact_hooks(self) -> bool:
        """Whether any plugin has a `redact_trace` hook; a reload may add one."""
        return self._gateway is not None and bool(self._gateway.hooks("redact_trace"))

    @property
    def has_recorded_hooks(self) -> bool:
        return self._gateway is not None and bool(self._gateway.hooks("trace_recorded"))

    def stop(self) -> None:
        """Block until the hook has processed the queue, or time out after STOP_TIMEOUT seconds."""
        if self._thread is None:
            return
        try:
            self._offered.put(None, timeout=STOP_TIMEOUT)
        except Full:
            log.warning("a trace_recorded hook hangs; what was offered to it is dropped")
            return
        self._thread.join(STOP_TIMEOUT)

    def redacted(self, record: Record) -> Trace | None:
        """Return the trace to store in place of `record`, or None to store the record.

        A change of `metadata` alone is written into the record. If a hook raises, the trace
        returned has none of the call's content.
        """
        trace = trace_of(record)
        before, tokens = _encode(trace), _tokens(trace)
        try:
            trace = self._redact(trace)
            after = _encode(trace)
        except Exception:  # noqa: BLE001  counted; content that it should redact must not be stored
            return _withheld(record)
        if after == before:
            return None
        if _changed_metadata_only(before, trace):
            record.head.metadata = trace.metadata
            return None
        trace.wire_response = None  # no hook can be expected to redact bytes
        if _tokens(trace) != tokens:
            _mark_redacted(trace)
        return trace

    def offer(self, trace: Trace) -> None:
        """Queue a trace for `trace_recorded`; drop it if the queue is full.

        Called in the writer's thread.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="trace-recorded", daemon=True)
            self._thread.start()
        try:
            self._offered.put_nowait(trace)
        except Full:
            if not self.dropped:
                log.warning("a trace_recorded hook is too slow; traces are dropped for it")
            self.dropped += 1

    def _redact(self, trace: Trace) -> Trace:
        if self._gateway is None:
            return trace
        for hook in self._gateway.hooks("redact_trace"):
            try:
                trace = hook.run(trace) or trace
            except Exception as error:
                self._count_failure(hook.plugin, "redact_trace", error)
                raise
        return trace

    def _run(self) -> None:
        while (trace := self._offered.get()) is not None:
            self._run_recorded(trace)

    def _run_recorded(self, trace: Trace) -> None:
        if self._gateway is None:
            return
        for hook in self._gateway.hooks("trace_recorded"):
            try:
                hook.run(trace)
            except Exception as error:  # noqa: BLE001  the failure is counted
                self._count_failure(hook.plugin, "trace_recorded", error)

    def _count_failure(self, plugin: str, hook: str, error: Exception) -> None:
        if self._gateway is not None:
            self._gateway.failures.note(plugin, hook, Outcome(), error)


def _tokens(trace: Trace) -> object:
    return [
        (one.prompt_token_ids[:], one.token_ids[:], one.logprobs[:]) for one in trace.choices
    ], trace.completion_token_ids[:]


def _changed_metadata_only(before: bytes, trace: Trace) -> bool:
    old = msgspec.json.decode(before, type=Trace)
    old.metadata = trace.metadata
    return _encode(old) == _encode(trace)


def _mark_redacted(trace: Trace) -> None:
    trace.verdict = "INCOMPLETE"
    trace.reasons = list(dict.fromkeys([*trace.reasons, "redacted"]))
    for choice in trace.choices:
        choice.verdict = "INCOMPLETE"
        choice.reasons = list(dict.fromkeys([*choice.reasons, "redacted"]))


def _withheld(record: Record) -> Trace:
    """A trace that records the call without any of its content."""
    return Trace(
        trace_id=record.trace_id,
        session_id=record.session_id or "",
        model=record.model,
        timestamp=record.timestamp,
        call_id=record.head.call_id,
        path=record.head.path,
        reasons=["capture_failed"],
    )
