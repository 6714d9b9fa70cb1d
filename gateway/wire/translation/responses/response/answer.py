"""A plain response, made of chat's."""

import msgspec

from gateway.errors import NOT_JSON
from gateway.wire.translation import chat
from gateway.wire.translation.responses.custom_tools import as_text
from gateway.wire.translation.responses.request.tools import Toolbox
from gateway.wire.translation.responses.response import logprobs, output
from gateway.wire.translation.responses.response.output import NULL
from gateway.wire.translation.responses.response.response_object import Response, end_as
from gateway.wire.translation.responses.sealed_reasoning import seal
from gateway.wire.translation.translation import Unreadable

encode = msgspec.json.Encoder().encode


def complete(response: Response, body: bytes, toolbox: Toolbox, *, sealed: bool = False) -> None:
    """Give `response` the output and the end of the chat response `body`.

    `sealed`: see sealed_reasoning. Raises Unreadable.
    """
    try:
        answer = chat.read_answer(body)
        if not answer.choices:
            raise Unreadable("the worker's response has no choice")
        choice = answer.choices[0]
        items = _items(choice, toolbox, sealed)
    except NOT_JSON as error:
        raise Unreadable(f"the worker's response is no response of chat: {error}") from None
    response.model = answer.model or response.model
    response.output = msgspec.Raw(b"[%b]" % b",".join(items))
    end_as(response, choice.finish_reason, chat.read_usage(answer.usage))


def _items(choice: chat.AnswerChoice, toolbox: Toolbox, sealed: bool) -> list[bytes]:
    message = choice.message
    items = []
    thought = message.reasoning or message.reasoning_content
    if thought:
        items.append(_reasoning(thought, sealed))
    if message.content:
        items.append(_message(message.content, logprobs.read(choice.logprobs)))
    if message.refusal:
        items.append(_refusal(message.refusal))
    ids = chat.CallIds()
    for number, call in enumerate(message.tool_calls or ()):
        items.append(_call(call, ids.of(call.id, number), toolbox))
    return items


def _reasoning(text: str, sealed: bool) -> bytes:
    part = output.reasoning_part(encode(text))
    taken = encode(seal(text)) if sealed else NULL
    return output.reasoning(output.new_id("rs"), b"[%b]" % part, taken, NULL)


def _message(text: str, tokens: list[logprobs.Token]) -> bytes:
    told = logprobs.encode(tokens) if tokens else NULL
    part = output.text_part(encode(text), told)
    return output.message(output.new_id("msg"), part, b"completed")


def _refusal(text: str) -> bytes:
    part = output.refusal_part(encode(text))
    return output.message(output.new_id("msg"), part, b"completed")


def _call(call: chat.AnswerCall, id_: str, toolbox: Toolbox) -> bytes:
    called = toolbox.by_name(call.function.name)
    call_id, name = encode(id_), encode(called.name)
    if called.custom:
        text = encode(as_text(call.function.arguments))
        return output.custom_call(output.new_id("ctc"), call_id, name, text)
    arguments = encode(call.function.arguments)
    return output.function_call(
        output.new_id("fc"), call_id, name, encode(called.namespace), arguments, b"completed"
    )
