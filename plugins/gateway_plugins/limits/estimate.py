"""Estimate of the tokens that a call may cost, from its request alone."""

from urllib.parse import unquote

import msgspec

from gateway import Call

MOST = 1 << 32
"""Maximum estimate of the completion tokens of one call."""

WITH_COMPLETION = frozenset(
    {"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"}
)

PROMPT_ONLY = frozenset(
    {"/v1/embeddings", "/v1/rerank", "/v1/score", "/v1/pooling", "/v1/classify"}
)

_FAILURES = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Asked(msgspec.Struct, gc=False):
    """Fields of a request body that bound the size of its response, and `stream`."""

    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    n: int | None = None
    stream: bool | None = None


_SAYS_NOTHING = Asked()
_read = msgspec.json.Decoder(Asked, strict=False).decode  # engines accept "5" for 5, too


def asked_in(body: bytes) -> Asked:
    """Return the fields in a body.

    All fields are None if the body cannot be parsed; the worker will reject it.
    """
    try:
        return _read(body)
    except _FAILURES:
        return _SAYS_NOTHING


def estimate(call: Call, asked: Asked, completion: int) -> tuple[int, int]:
    """Return the prompt tokens and the completion tokens that a call may cost.

    `completion` is the number per choice if the request sets no maximum. (0, 0) if the request is
    not a POST: then no model is called. (0, 1) on a path that is not known to cost tokens, so that
    such calls are rejected once no tokens are left.
    """
    if call.method != "POST":
        return 0, 0
    path = unquote(call.path) if "%" in call.path else call.path  # a worker decodes it too
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
