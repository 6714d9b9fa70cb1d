"""A finished call as the exporter gets it, without a gateway."""

from gateway_plugins.otel.record import SECOND, FinishedCall, TriedWorker
from gateway_plugins.otel.response import Watched

from gateway import Usage

BODY = b'{"id": "c1", "model": "m", "choices": [{"index": 0, "finish_reason": "stop"}]}'


def finished_call() -> FinishedCall:
    """A plain chat that one worker answered."""
    watched = Watched(streams=False)
    watched.ends.add(BODY)
    attempt = TriedWorker(
        span_id="00f067aa0ba902b8",
        worker="w1",
        url="http://127.0.0.1:8000",
        began=SECOND,
        ended=2 * SECOND,
        first_byte=2 * SECOND,
        reused=True,
        status=200,
        error=None,
        ejected=False,
    )
    return FinishedCall(
        trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
        span_id="00f067aa0ba902b7",
        parent_id=None,
        tracestate="",
        call_id="c",
        method="POST",
        path="/v1/chat/completions",
        label="/v1/chat/completions",
        api="chat",
        manages=False,
        frontend="http",
        source="realtime",
        session_id="s",
        principal="p",
        model="m",
        streams=False,
        asked=("max_tokens", 3),
        began=SECOND,
        ended=2 * SECOND,
        first_byte=2 * SECOND,
        first_event=None,
        status=200,
        result="success",
        failure=None,
        queue=0.0,
        overhead=0.001,
        usage=Usage(9, 5),
        attempts=(attempt,),
        response=watched,
    )
