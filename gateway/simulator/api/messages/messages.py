"""`/v1/messages`: checks a request as the engine does, and carries it as chat."""

from collections.abc import Awaitable, Callable

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gateway.simulator.api.chat import prepare_chat
from gateway.simulator.api.messages.wire import MessagesWire
from gateway.simulator.caller import read_body
from gateway.simulator.config import SimulatorConfig
from gateway.simulator.generation import Prepared
from gateway.simulator.input.envelopes import in_messages, misread
from gateway.simulator.input.messages import CountRequest, MessagesRequest
from gateway.simulator.input.refusals import Refused, bad_schema, missing, parse, unfit
from gateway.wire.translation import chat
from gateway.wire.translation.messages.request import MIN_BUDGET, Habits, count_request
from gateway.wire.translation.messages.translator import messages_as_chat
from gateway.wire.translation.translation import Untranslatable

_HABITS = Habits(merges_system=False, effort_without_thinking="none", ignores_threads=True)


def prepare_messages(body: bytes, given_id: str | None, config: SimulatorConfig) -> Prepared:
    """Check `body`, and plan its response as chat; raises Refused."""
    asked = parse(body, MessagesRequest)
    _check(asked)
    try:
        translation = messages_as_chat(body, _HABITS)
    except Untranslatable as error:
        raise unfit("body", error.reason, _fields(body)) from None
    try:
        prepared = prepare_chat(translation.body, given_id, config)
    except Refused as refused:
        refused.stream = misread(refused) if asked.stream and refused.by_engine else None
        raise
    wire = MessagesWire(translation.response)
    return msgspec.structs.replace(prepared, wire=wire)


def counting(config: SimulatorConfig) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint `/v1/messages/count_tokens`."""

    async def count_tokens(request: Request) -> Response:
        body = await read_body(request.receive)
        parse(body, CountRequest)
        try:
            count = _count(body, config)
        except Refused as refused:
            raise in_messages(refused) from None
        told = {"input_tokens": count, "context_management": {"original_input_tokens": count}}
        return Response(msgspec.json.encode(told), media_type="application/json")

    return count_tokens


def _count(body: bytes, config: SimulatorConfig) -> int:
    try:
        asked = chat.encode(count_request(body, _HABITS))
    except Untranslatable as error:
        raise unfit("body", error.reason, _fields(body)) from None
    (prompt,) = prepare_chat(asked, None, config).plan.prompts
    return len(prompt)


def _check(asked: MessagesRequest) -> None:
    if not asked.model:
        raise unfit("body.model", "Model is required", asked.model)
    if asked.max_tokens <= 0:
        raise unfit("body.max_tokens", "max_tokens must be positive", asked.max_tokens)
    thinking = asked.thinking
    if thinking is None or thinking.type != "enabled":
        return
    where, budget = "body.thinking.enabled.budget_tokens", thinking.budget_tokens
    if budget is None:
        raise missing(where, {"type": thinking.type})
    if budget < MIN_BUDGET:
        says = f"Input should be greater than or equal to {MIN_BUDGET}"
        raise bad_schema("greater_than_equal", where, says, str(budget), {"ge": MIN_BUDGET})


def _fields(body: bytes) -> dict[str, msgspec.Raw]:
    return msgspec.json.decode(body, type=dict[str, msgspec.Raw])
