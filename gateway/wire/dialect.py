"""What an API is to the gateway: how its responses are read, and what they are read into.

Token ids are the only true record of what was sampled. Text does not give them back: a token that
ends inside a character has an id and a logprob but no text of its own, a stop string hides tokens
that were sampled, and the end-of-sequence token has no text at all.
"""

from typing import Protocol

import msgspec

from gateway.errors import GatewayError
from gateway.wire.usage import Usage


class Unreadable(GatewayError):
    """A worker's response is not in the format of this dialect."""


class ChoiceDelta(msgspec.Struct, frozen=True, gc=False):
    """The part of one choice in one event of a stream, or in a plain response.

    `index` is prompt * n + i if a call has several prompts. `token_ids` are the sampled tokens,
    with or without text, end of sequence included; `logprobs` has one value for each, in natural
    logarithms, None if the engine sent null (its -9999.0 for minus infinity stays). Each is empty
    if the engine omitted it. `prompt_token_ids` comes once per choice in every dialect: in its
    plain response, or on its first event.
    """

    index: int
    text: str = ""
    token_ids: list[int] = []
    logprobs: list[float | None] = []
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    prompt_token_ids: list[int] | None = None


class Delta(msgspec.Struct, frozen=True, gc=False):
    """Content of one event of a stream, or of a plain response.

    `usage` comes at the end or not at all; if the caller requested `continuous_usage_stats`, each
    event has its own, counting up. `error` is the message of an error sent in place of a response;
    a stream may still end as usual (`done`) after it.
    """

    choices: list[ChoiceDelta] = []
    usage: Usage | None = None
    id: str = ""
    model: str = ""
    error: str | None = None
    done: bool = False


class Dialect(Protocol):
    """Decoder of one API. Its methods raise Unreadable and nothing else, for any bytes."""

    @property
    def name(self) -> str: ...

    def read_event(self, data: bytes) -> Delta:
        """Decode the data of one event of a stream."""

    def read_answer(self, body: bytes) -> Delta:
        """Decode a whole plain response."""
