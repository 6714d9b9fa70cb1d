"""A Messages request as a chat request, exactly as vLLM 0.32 makes one inside."""

from typing import Literal

import msgspec
from msgspec import UNSET

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

MAX_SALT = 1024
"""Maximum characters of `cache_salt`."""


NO_THREADS = "thread_unsupported_request"
"""The code of Anthropic's error for a `thread` that the server cannot keep."""


class Habits(msgspec.Struct, frozen=True):
    """What differs between engines, and between the chat templates of their models.

    `merges_system`: the template takes system messages only at the beginning, so that those in the
    middle are moved there. `effort_without_thinking` is the effort that stands for thinking that is
    switched off, "" for none at all. None: it is not known; a request that depends on it raises
    UnknownHabit. `extensions`: the engine is a vLLM, and takes vLLM's own fields; without them only
    those of OpenAI are sent. `ignores_threads`: a request that leaves what was said to the server
    is carried as if it were whole, as engines do themselves.
    """

    merges_system: bool | None = None
    effort_without_thinking: Effort | Literal["none", ""] | None = None
    extensions: bool = True
    ignores_threads: bool = False


PLAIN_CHAT = Habits(merges_system=True, effort_without_thinking="", extensions=False)
"""The habits of an engine of which only is known that it speaks chat."""


class UnknownHabit(Untranslatable):
    """The request could be translated if a habit of the engine were known."""


def read_request(body: bytes) -> Request:
    """Raises Untranslatable if the body is not what a Messages engine takes."""
    try:
        asked = decode_request(body)
    except NOT_JSON as error:
        raise Untranslatable(str(error), invalid=True) from None
    _check(asked)
    return asked


def chat_request(asked: Request, habits: Habits) -> chat.Request:
    """Return the chat request. Raises Untranslatable if none would be answered in the same way.

    A thread is a conversation that the server keeps: the next request has only what is new. Engines
    ignore it, and would answer a prompt without its beginning. Anthropic's clients send the whole
    conversation again after an error with this code.
    """
    if asked.thread is not None and not habits.ignores_threads:
        words = "the server keeps no threads: send the whole conversation, without `thread`"
        raise Untranslatable(words, invalid=True, code=NO_THREADS)
    made = _base(asked, habits)
    made.max_completion_tokens = asked.max_tokens
    made.stop = asked.stop_sequences or None
    made.temperature, made.top_p = asked.temperature, asked.top_p
    if habits.extensions:
        _add_extensions(asked, made)
    if asked.stream:
        made.stream = True
        made.stream_options = chat.StreamOptions(
            include_usage=True, continuous_usage_stats=habits.extensions
        )
    return made


def _add_extensions(asked: Request, made: chat.Request) -> None:
    made.max_tokens, made.top_k = asked.max_tokens, asked.top_k
    made.watermarking, made.cache_salt = asked.watermarking, asked.cache_salt
    made.kv_transfer_params = asked.kv_transfer_params
    made.ec_transfer_params = asked.ec_transfer_params
    made.vllm_xargs = asked.vllm_xargs
    if isinstance(asked.thinking, Thinking):
        made.thinking_token_budget = asked.thinking.budget_tokens


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
    _add_output_config(asked, made)
    if isinstance(asked.thinking, NoThinking):
        made.reasoning_effort = _without_thinking(habits)
    add_tools(asked, made)
    if habits.extensions:
        made.chat_template_kwargs = asked.chat_template_kwargs
    else:
        _drop_extensions(made)
    return made


def _drop_extensions(made: chat.Request) -> None:
    """Take out what OpenAI's API has no field for."""
    for message in made.messages:
        message.reasoning = UNSET
    for tool in made.tools or ():
        tool.function.defer_loading = None


def _merges(asked: CountRequest, habits: Habits) -> bool:
    if all(message.role != "system" for message in asked.messages):
        return True
    if habits.merges_system is None:
        raise UnknownHabit("what the engine makes of a system message in the middle is not known")
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


def _without_thinking(habits: Habits) -> str | None:
    if habits.effort_without_thinking is None:
        raise UnknownHabit("how the engine switches thinking off is not known")
    return habits.effort_without_thinking or None


def _check(asked: Request) -> None:
    """Raise Untranslatable for what the engine's own checks refuse."""
    if asked.max_tokens <= 0:
        raise Untranslatable("max_tokens must be positive", invalid=True)
    if asked.cache_salt is not None and not 0 < len(asked.cache_salt) <= MAX_SALT:
        raise Untranslatable("cache_salt is empty or too long", invalid=True)
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
