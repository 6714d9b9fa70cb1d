"""A Messages request as a chat request, exactly as vLLM 0.32 makes one inside."""

from typing import Literal, TypeVar

import msgspec

from gateway.errors import NOT_JSON
from gateway.wire.translation import chat
from gateway.wire.translation.messages.blocks import messages_of, system_text
from gateway.wire.translation.messages.structs import (
    CountRequest,
    Effort,
    NoThinking,
    Request,
    Thinking,
    decode_count,
    decode_request,
)
from gateway.wire.translation.messages.tools import CHANGES, add_tools
from gateway.wire.translation.translation import Untranslatable

MIN_BUDGET = 1024
"""Minimum of `thinking.budget_tokens`."""

Asked = TypeVar("Asked", bound=CountRequest)


class Habits(msgspec.Struct, frozen=True):
    """How the engines differ, each by the chat template of its model.

    `merges_system`: its template takes system messages only at the beginning, so that those in the
    middle are moved there; None: that is not known. `effort_without_thinking` is the effort that
    stands for thinking that is switched off; None: not known. `continuous_usage`: it can send a
    usage in each event, so that the first one has the prompt's.
    """

    merges_system: bool | None = True
    effort_without_thinking: Effort | Literal["none"] | None = "none"
    continuous_usage: bool = True


def read_request(body: bytes) -> Request:
    """Raises Untranslatable if the body is not what a Messages engine takes."""
    try:
        asked = decode_request(body)
    except NOT_JSON as error:
        raise Untranslatable(str(error), invalid=True) from None
    _check(asked)
    return asked


def chat_request(asked: Request, habits: Habits) -> chat.Request:
    """Return the chat request. Raises Untranslatable if none would be answered in the same way."""
    made = _base(asked, habits)
    made.max_tokens = made.max_completion_tokens = asked.max_tokens
    made.stop = asked.stop_sequences
    made.temperature, made.top_p, made.top_k = asked.temperature, asked.top_p, asked.top_k
    made.watermarking, made.cache_salt = asked.watermarking, asked.cache_salt
    made.kv_transfer_params = asked.kv_transfer_params
    made.ec_transfer_params = asked.ec_transfer_params
    made.vllm_xargs = asked.vllm_xargs
    if asked.stream:
        made.stream = True
        made.stream_options = chat.StreamOptions(
            include_usage=True, continuous_usage_stats=habits.continuous_usage
        )
    return made


def count_request(body: bytes, habits: Habits) -> chat.Request:
    """Return the chat request whose prompt is to be counted. Raises Untranslatable."""
    try:
        asked = decode_count(body)
    except NOT_JSON as error:
        raise Untranslatable(str(error), invalid=True) from None
    return _base(asked, habits)


def _base(asked: CountRequest, habits: Habits) -> chat.Request:
    if not asked.model:
        raise Untranslatable("Model is required", invalid=True)
    merged = _merges(asked, habits)
    messages = [*_system(asked, merged=merged), *messages_of(asked.messages, merged=merged)]
    made = chat.Request(model=asked.model, messages=messages)
    made.chat_template_kwargs = asked.chat_template_kwargs
    _add_output_config(asked, made)
    _add_thinking(asked, made, habits)
    add_tools(asked, made)
    return made


def _merges(asked: CountRequest, habits: Habits) -> bool:
    if all(message.role != "system" for message in asked.messages):
        return True
    if habits.merges_system is None:
        raise Untranslatable("what the engine makes of a system message in the middle is not known")
    return habits.merges_system


def _system(asked: CountRequest, *, merged: bool) -> list[chat.Message]:
    """Return the system message at the beginning; with those of the middle if they are `merged`."""
    top = asked.system
    if isinstance(top, list) and any(block.type in CHANGES for block in top):
        words = 'tool changes are only allowed in messages with role "system"'
        raise Untranslatable(words, invalid=True)
    texts = [top if isinstance(top, str) else system_text(top or [])]
    if merged:
        texts += [system_text(one.content) for one in asked.messages if one.role == "system"]
    text = "".join([one for one in texts if one])
    has_one = any(one is not None and one != "" for one in texts)
    return [chat.Message(role="system", content=text)] if has_one else []


def _add_output_config(asked: CountRequest, made: chat.Request) -> None:
    config = asked.output_config
    if config is None:
        return
    if config.format is not None and config.format.schema:
        named = {"name": config.format.type, "schema": config.format.schema}
        made.response_format = {"type": config.format.type, "json_schema": named}
    made.reasoning_effort = config.effort


def _add_thinking(asked: CountRequest, made: chat.Request, habits: Habits) -> None:
    thinking = asked.thinking
    if isinstance(thinking, NoThinking):
        if habits.effort_without_thinking is None:
            raise Untranslatable("how the engine switches thinking off is not known")
        made.reasoning_effort = habits.effort_without_thinking
    elif isinstance(thinking, Thinking):
        made.thinking_token_budget = thinking.budget_tokens


def _check(asked: Request) -> None:
    """Raise Untranslatable for what the engine's own checks refuse."""
    if asked.max_tokens <= 0:
        raise Untranslatable("max_tokens must be positive", invalid=True)
    thinking = asked.thinking
    if not isinstance(thinking, Thinking):
        return
    if thinking.budget_tokens < MIN_BUDGET:
        raise Untranslatable(f"thinking.budget_tokens must be at least {MIN_BUDGET}", invalid=True)
    if asked.kv_transfer_params is not None and "do_remote_decode" in asked.kv_transfer_params:
        return
    if thinking.budget_tokens >= asked.max_tokens:
        words = "thinking.budget_tokens must be less than max_tokens"
        raise Untranslatable(words, invalid=True)
