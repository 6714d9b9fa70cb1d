"""How many tokens a call may cost, told from its request before anybody has answered it."""

from urllib.parse import unquote

import msgspec

from gateway import Call

MOST = 1 << 32
"""Tokens of an answer that a call is believed to ask for."""

WITH_COMPLETION = frozenset(
    {"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"}
)

PROMPT_ONLY = frozenset(
    {"/v1/embeddings", "/v1/rerank", "/v1/score", "/v1/pooling", "/v1/classify"}
)

_FAILURES = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Asked(msgspec.Struct, gc=False):
    """What a body says of the answer that it asks for."""

    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    n: int | None = None
    stream: bool | None = None


_SAYS_NOTHING = Asked()
_read = msgspec.json.Decoder(Asked, strict=False).decode  # engines take "5" for 5, too


def asked_in(body: bytes) -> Asked:
    """What of it can be read; a body that cannot be is refused by the worker."""
    try:
        return _read(body)
    except _FAILURES:
        return _SAYS_NOTHING


def estimate(call: Call, asked: Asked, completion: int) -> tuple[int, int]:
    """Tokens of the prompt and of the answer, `completion` for each choice without a most.

    None for what is no call of a model. One on paths that are not known to cost any, so that they
    are refused where none is left.
    """
    if call.method != "POST":
        return 0, 0
    path = unquote(call.path) if "%" in call.path else call.path  # a worker takes it for the same
    if path in WITH_COMPLETION:
        return call.prompt_estimate, _completion(asked, completion)
    return (call.prompt_estimate, 0) if path in PROMPT_ONLY else (0, 1)


def _completion(asked: Asked, most: int) -> int:
    for told in (asked.max_completion_tokens, asked.max_output_tokens, asked.max_tokens):
        if told is not None:
            most = told
            break
    choices = asked.n
    if choices is not None and choices > 1:
        most *= choices
    return 0 if most < 0 else min(MOST, most)
