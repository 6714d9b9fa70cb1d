"""What carries a call of another API as chat: a chat request, and the way back."""

from collections.abc import Callable
from typing import Protocol

import msgspec

from gateway.errors import GatewayError
from gateway.wire.apis.openai import CHAT


class Untranslatable(GatewayError):
    """A request that has no exact equal in chat; the message says why.

    `invalid`: no engine would take it, as far as the gateway knows. `code`: that of the error for
    the caller if the request must not be passed on either, as an engine would take it and ignore
    what it means.
    """

    def __init__(self, reason: str, *, invalid: bool = False, code: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.invalid = invalid
        self.code = code


class Unreadable(GatewayError):
    """A worker's response is not the chat that was asked for."""


class GivenUp(Unreadable):
    """A worker's response is a chat that its engine gave up."""


class ResponseTranslator(Protocol):
    """Makes one call's response out of the chat response that a worker sends.

    A stream: `event` for each event with data, `comment` for each comment, and `end` once all has
    arrived and the call's record is committed: only `end` may return what the caller takes for
    the end of the response. A plain response: either `answer` or `refusal`, once. `failure` tells
    why the caller of a stream got an error although the worker sent none; else it is None.
    """

    @property
    def failure(self) -> str | None: ...

    def event(self, data: bytes) -> bytes:
        """Return the events for the data of one chat event; it may be an error. Never raises."""

    def comment(self) -> bytes:
        """Return what keeps the connection alive in place of a comment."""

    def end(self, *, done: bool) -> bytes:
        """Return the last events. `done`: the stream ended in `[DONE]`. Never raises."""

    def answer(self, body: bytes) -> bytes:
        """Return the plain response. Raises Unreadable if `body` is no chat response."""

    def refusal(self, status: int, body: bytes, call_id: str) -> bytes:
        """Return the body of an error with `status`. Never raises."""


class Settling(Protocol):
    """The part of a ResponseTranslator that waits for more than the response, such as a worker."""

    def begin(self, send: Callable[[bytes], bool]) -> None:
        """Called first: `send` sends events of a stream to the caller at any time."""

    async def settle(self, body: bytes) -> None:
        """Wait for what the last bytes need; called before the call is recorded.

        `body` is a whole plain response with status 200; it is empty for a stream, of which all
        events have been translated. Raises CallError: a stream is then broken off.
        """

    def close(self) -> None:
        """Stop waiting: the call is over."""


class Translation(msgspec.Struct, frozen=True):
    """A call as one of another API: the path and the body for the worker, and the way back.

    `response` translates the response, and `settling` is its part that waits, if there is one.
    """

    body: bytes
    response: ResponseTranslator
    path: str = CHAT.paths[0]
    settling: Settling | None = None
