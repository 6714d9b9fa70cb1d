"""Makes the response of a recorded call, as its worker sent it."""

from collections.abc import AsyncIterator
from typing import Literal

from gateway import Answer, Trace, UpstreamError, WireResponse

Injection = Literal["token_ids", "logprobs", "usage"]

INJECTED: dict[str, Injection] = {
    "return_token_ids": "token_ids",
    "return_prompt_token_ids": "token_ids",
    "return_input_ids_in_sglext": "token_ids",
    "return_output_ids_in_sglext": "token_ids",
    "logprobs": "logprobs",
    "top_logprobs": "logprobs",
    "return_logprob": "logprobs",
    "stream_options": "usage",
    "include_usage": "usage",
}
"""Fields of requests that the gateway injects, and what for."""

SGLANG = {"return_input_ids_in_sglext", "return_output_ids_in_sglext"}
"""Of these, those with which SGLang alone is asked, for streams of chats."""

BROKEN = "the recorded response ends here"


def injections_of(trace: Trace) -> list[Injection]:
    """Return what was injected into the recorded request, and so is in its response."""
    return sorted({INJECTED[name] for name in trace.injected if name in INJECTED})


def answer_of(trace: Trace) -> Answer:
    """Return the recorded response; if it broke off, it breaks off again."""
    response = trace.wire_response or WireResponse(status=502)
    headers = [(name.lower().encode(), value.encode()) for name, value in response.headers]
    body = response.body if _is_whole(trace) else _broken(response.body, trace)
    coded = any(name == b"content-encoding" for name, _ in headers)
    engine: Literal["sglang"] | None = None if SGLANG.isdisjoint(trace.injected) else "sglang"
    return Answer(response.status, headers, body, injected=not coded, engine=engine)


def _is_whole(trace: Trace) -> bool:
    """Whether all came that the caller waited for, even if the caller left before the end."""
    return trace.delivery.complete or trace.delivery.result == "success"


async def _broken(body: bytes, trace: Trace) -> AsyncIterator[bytes]:
    if body:
        yield body
    code = trace.attempts[-1].error if trace.attempts else None
    raise UpstreamError(trace.error or BROKEN, code=code)
