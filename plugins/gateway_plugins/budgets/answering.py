"""What callers get of a budget that is spent: an error, or a response that ends with `length`."""

import time
from collections.abc import Mapping
from typing import Any

import msgspec

from gateway import Answer, Call, CallError, TooManyRequests
from gateway_plugins.budgets.deciding import Limit
from gateway_plugins.budgets.options import BILLION

WHAT: Mapping[str, str] = {
    "max_calls": "calls",
    "max_tokens": "tokens",
    "max_completion_tokens": "completion tokens",
    "max_cost": "of cost",
    "max_time": "seconds",
}

JSON = ((b"content-type", b"application/json"),)
EVENTS = ((b"content-type", b"text/event-stream"),)
NO_USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


class BudgetExceeded(CallError):
    """The budget of a session or a run has too little left; asking again changes nothing.

    Clients retry no 402; `x-should-retry: false` tells the others of OpenAI and Anthropic.
    """

    status = 402
    code = "budget_exceeded"
    type = "billing_error"


class BudgetInUse(TooManyRequests):
    """Calls in flight may take what is left of a budget."""

    code = "budget_in_use"


def exceeded(limit: Limit) -> BudgetExceeded:
    return BudgetExceeded(
        f"the budget of this {limit.kind} has too little left for this call ({limit.limit}): "
        f"{_said(limit, limit.spent)} of {_said(limit, limit.most)} {WHAT[limit.limit]} are spent. "
        "Do not retry: finish with what there is",
        param=limit.limit,
        headers=((b"x-should-retry", b"false"),),
    )


def in_use(limit: Limit) -> BudgetInUse:
    return BudgetInUse(
        f"calls in flight may take the rest of the budget of this {limit.kind} ({limit.limit}): "
        "retry when one of them has ended",
        param=limit.limit,
        headers=((b"retry-after", b"1"),),
    )


def _said(limit: Limit, amount: float) -> str:
    return f"{amount / BILLION:.6g}" if limit.limit == "max_cost" else f"{amount:.0f}"


def can_end(call: Call) -> bool:
    """Whether an empty response is known for the API that the call is carried as."""
    return call.dialect is not None and call.dialect.name in ("chat", "completions")


async def empty_answer(call: Call) -> Answer:
    """Return a response without tokens that ends with the finish reason `length`."""
    body = await call.json()
    chat = call.dialect is not None and call.dialect.name == "chat"
    several = body.get("n")
    choices = several if type(several) is int and 0 < several <= 128 else 1
    outside = {
        "id": f"{'chatcmpl' if chat else 'cmpl'}-{call.id}",
        "object": _object(chat=chat, streams=call.streams),
        "created": int(time.time()),
        "model": call.model or "",
    }
    listed = [_choice(index, chat=chat, streams=call.streams) for index in range(choices)]
    if not call.streams:
        return Answer(200, JSON, _json({**outside, "choices": listed, "usage": NO_USAGE}))
    events = [
        {**outside, "choices": listed},
        {**outside, "choices": [], "usage": NO_USAGE},
    ]
    text = b"".join([b"data: %b\n\n" % _json(one) for one in events])
    return Answer(200, EVENTS, text + b"data: [DONE]\n\n", injected=True)


def _object(*, chat: bool, streams: bool) -> str:
    if not chat:
        return "text_completion"
    return "chat.completion.chunk" if streams else "chat.completion"


def _choice(index: int, *, chat: bool, streams: bool) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": index}
    if chat:
        choice["delta" if streams else "message"] = {"role": "assistant", "content": ""}
    else:
        choice["text"] = ""
    return {**choice, "logprobs": None, "finish_reason": "length"}


def _json(value: object) -> bytes:
    return msgspec.json.encode(value)
