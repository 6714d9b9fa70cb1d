"""Parts that the responses of chat and of completions share.

The order of the fields is the order on the wire. `UNSET` leaves a field out, None writes null: the
engine does both, and clients see the difference.
"""

import time
from hashlib import blake2b
from secrets import token_hex

import msgspec
from msgspec import UNSET, UnsetType

from gateway.simulator.engine.sequences import Alternative, score
from gateway.simulator.input.requests import GenerationRequest

VERSION = "0.32.0"


class PromptDetails(msgspec.Struct):
    """What the prefix cache held of a prompt; `created_cache_tokens` is chat's alone."""

    cached_tokens: int
    created_cache_tokens: int | UnsetType | None = UNSET
    multimodal_tokens: UnsetType | None = UNSET


class CompletionDetails(msgspec.Struct):
    reasoning_tokens: int


class Usage(msgspec.Struct):
    prompt_tokens: int
    total_tokens: int
    completion_tokens: int
    prompt_tokens_details: PromptDetails | UnsetType | None = UNSET
    completion_tokens_details: CompletionDetails | UnsetType | None = UNSET


class PromptLogprob(msgspec.Struct):
    logprob: float
    rank: int
    decoded_token: str


PromptLogprobs = list[dict[str, PromptLogprob] | None]


class Header(msgspec.Struct, frozen=True):
    """The first fields of every response and every event of one call."""

    id: str
    created: int
    model: str
    fingerprint: str


def header(prefix: str, request: GenerationRequest, given_id: str | None, model: str) -> Header:
    """Return a new response's header; `given_id` is the caller's `X-Request-Id`, if any."""
    name = given_id or request.request_id or token_hex(8)
    fingerprint = blake2b(model.encode(), digest_size=4).hexdigest()
    return Header(f"{prefix}{name}", int(time.time()), model, f"vllm-{VERSION}-{fingerprint}")


def usage(
    prompt_tokens: int,
    completion_tokens: int,
    cached: int | None = None,
    created: int | UnsetType = UNSET,
) -> Usage:
    """Return the usage at the end of a stream; `cached` None if it tells nothing of the cache."""
    details = UNSET if cached is None else PromptDetails(cached, created)
    return Usage(prompt_tokens, prompt_tokens + completion_tokens, completion_tokens, details)


def running_usage(prompt_tokens: int, completion_tokens: int) -> Usage:
    """Return the usage for each event of a stream with `continuous_usage_stats`."""
    total = prompt_tokens + completion_tokens
    return Usage(prompt_tokens, total, completion_tokens, completion_tokens_details=None)


def plain_usage(
    prompt_tokens: int,
    completion_tokens: int,
    cached: int | None = None,
    created: int | None = None,
) -> Usage:
    """Return the usage of a response that is not streamed."""
    total = prompt_tokens + completion_tokens
    details = None if cached is None else PromptDetails(cached, created, None)
    return Usage(prompt_tokens, total, completion_tokens, details, None)


def token_name(alternative: Alternative, as_ids: bool) -> str:
    """Return a token's name in logprobs: its text, or its id for `return_tokens_as_token_ids`."""
    return f"token_id:{alternative.id}" if as_ids else alternative.text


def prompt_logprobs(ids: list[int], count: int) -> PromptLogprobs:
    """Return the logprobs of each token of a prompt, by token id; null for the first token.

    Each entry has the prompt's token and the `count` likeliest ones.
    """
    return [
        None
        if seen is None
        else {str(token.id): PromptLogprob(token.logprob, token.rank, token.text) for token in seen}
        for seen in score(ids, count)
    ]
