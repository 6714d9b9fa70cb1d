"""The tokens in responses of vLLM's own Responses, if they were asked for.

`input_messages` and `output_messages` have all that was read and sampled, marks of tool calls and
the end of sequence among them. An abort looks like an end in them, and there are no logprobs.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from gateway_plugins.trace_capture.answers.assembled import UNREADABLE, Part
from gateway_plugins.trace_capture.answers.openai.structs import TokenId
from gateway_plugins.trace_capture.codec import pack_ids

_ENDS = {"completed": "stop", "incomplete": "length", "failed": "error", "cancelled": "abort"}


class _Raw(msgspec.Struct):
    tokens: list[TokenId]


class _Response(msgspec.Struct):
    status: str
    input_messages: list[_Raw]
    output_messages: list[_Raw]


def parts_of(answer: Mapping[str, Any]) -> list[Part]:
    """Return the part of the one choice of a response; none if it does not tell the tokens."""
    if answer.get("object") != "response" or not answer.get("input_messages"):
        return []
    try:
        read = msgspec.convert(answer, _Response)
        prompt = [token for one in read.input_messages for token in one.tokens]
        sampled = [token for one in read.output_messages for token in one.tokens]
        return [
            Part(
                index=0,
                packed_prompt=pack_ids(prompt),
                packed_ids=pack_ids(sampled),
                finish_reason=_ENDS.get(read.status),
            )
        ]
    except UNREADABLE:
        return []
