"""The RPCs that run, and what is told of each that has ended: in the log, and in metrics."""

import logging
import time
from collections import Counter
from collections.abc import Iterator

from msgspec.structs import replace

from gateway import Host, Sample
from gateway_plugins.grpc.edge.answers import Method
from gateway_plugins.grpc.edge.calling import LATE, Rpc
from gateway_plugins.grpc.edge.context import Context
from gateway_plugins.grpc.status import Code, Status

log = logging.getLogger("gateway")

BUG = Status(Code.INTERNAL, "the gateway failed on this call", "internal_error")

SHORT_DEADLINE = 1.0
"""Seconds: a caller that waits less for a generation has most likely mistaken the unit."""


class Rpcs:
    """Carries RPCs whose methods are calls. `log_calls`: a line of the log tells of each."""

    def __init__(self, host: Host, *, log_calls: bool) -> None:
        self.log_calls = log_calls
        self._host = host
        self._running = 0
        self._ended: Counter[tuple[str, str, str]] = Counter()
        self._cut = 0

    async def carry(self, method: Method, context: Context) -> tuple[Status, int]:
        """Carry one RPC; return how it ended, and after how many messages. Raises nothing."""
        rpc = Rpc(self._host, method, context)
        self._running += 1
        try:
            status = await rpc.run()
        except Exception:
            log.exception("the gateway failed on a call over gRPC")
            status = BUG if rpc.call is None else replace(BUG, facts={"request_id": rpc.call.id})
        finally:
            self._running -= 1
        self._note(rpc, status)
        return status, rpc.sent

    def _note(self, rpc: Rpc, status: Status) -> None:
        self._ended[rpc.context.frontend, rpc.method.name, status.code.name] += 1
        self._cut += status is LATE and rpc.first is not None
        if self.log_calls:
            log.info("gRPC call", extra={"fields": _fields(rpc, status)})
        left = rpc.context.seconds_left
        if left is not None and left < SHORT_DEADLINE and status is LATE:
            agent = dict(rpc.context.metadata).get("user-agent")
            fields = {"deadline_ms": round(left * 1000), "user_agent": agent}
            log.warning("a caller waits less than a second", extra={"fields": fields})

    def samples(self) -> Iterator[Sample]:
        """Yield the metrics of the plugin."""
        for (frontend, method, code), count in self._ended.items():
            labels = {"frontend": frontend, "method": method, "code": code}
            yield Sample("gateway_grpc_calls_total", "counter", count, _CALLS, labels)
        yield Sample("gateway_grpc_calls_in_flight", "gauge", self._running, _RUNNING)
        yield Sample("gateway_grpc_answers_cut_total", "counter", self._cut, _CUT)


_CALLS = "RPCs that have ended, by front end, method and code."
_RUNNING = "RPCs that run now."
_CUT = "RPCs whose caller's own deadline passed after the first message."


def _fields(rpc: Rpc, status: Status) -> dict[str, object]:
    call, answer = rpc.call, rpc.answer
    told: dict[str, object] = {
        "frontend": rpc.context.frontend,
        "method": rpc.method.name,
        "grpc_code": status.code.name,
        "reason": status.reason.upper() or None,
        "latency_ms": round((time.monotonic() - rpc.began) * 1000),
        "ttft_ms": None if rpc.first is None else round(rpc.first * 1000),
        "deadline_ms": _milliseconds(rpc.context.seconds_left),
        "finish_reason": answer.finish_reason or None,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "total_tokens": _sum(answer.prompt_tokens, answer.completion_tokens),
    }
    if call is not None:
        trace = call.distributed_trace
        told |= {
            "request_id": call.id,
            "session_id": call.session_id,
            "principal": None if call.principal is None else call.principal.id,
            "worker": None if call.worker is None else call.worker.id,
            "model": call.model if call.attempts else None,
            "trace_id": None if trace is None else trace.trace_id,
            "span_id": None if trace is None else trace.span_id,
        }
    return told


def _sum(prompt: int | None, completion: int | None) -> int | None:
    return None if prompt is None or completion is None else prompt + completion


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)
