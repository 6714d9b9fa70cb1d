"""From a response of a chat to messages of `llm.v1`."""

import time
from typing import Any

import msgspec

from gateway import NOT_JSON, error_message
from gateway_plugins.grpc.edge.answers import Asked, BadAnswer, Begun, Broken, WorkerError
from gateway_plugins.grpc.messages import Messages

MOST = 2**31 - 1


class Delta(msgspec.Struct, gc=False):
    content: str | None = None


class Choice(msgspec.Struct, gc=False):
    """A choice of a plain response has a `message`, one of an event a `delta`."""

    index: int = 0
    delta: Delta | None = None
    message: Delta | None = None
    finish_reason: str | None = None


class Tokens(msgspec.Struct, gc=False):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class Response(msgspec.Struct, gc=False):
    choices: list[Choice] | None = None
    usage: Tokens | None = None
    error: object = None


DECODER = msgspec.json.Decoder(Response)


def decode(data: bytes) -> Response:
    """Parse an event, or a plain response. Raises BadAnswer, WorkerError."""
    try:
        found = DECODER.decode(data)
    except NOT_JSON:
        raise BadAnswer("the worker's response is not that of a chat") from None
    if found.error is not None:
        raise WorkerError(error_message(found.error) or "the worker failed")
    if found.choices is None and found.usage is None:
        raise BadAnswer("the worker's response has no choices")
    return found


class ChatAnswer:
    """Makes messages of a chat's response. `streams`: of a stream, else of a plain response."""

    def __init__(self, messages: Messages, started: float, *, streams: bool) -> None:
        self.finish_reason = ""
        self.prompt_tokens = self.completion_tokens = self._total = 0
        self._started = started
        self._streams = streams
        self._text: list[str] = []
        self._told_first = False
        self._chunk: Any = messages.type("llm.v1.ChatCompletionChunkResponse")
        self._whole: Any = messages.type("llm.v1.ChatCompletionResponse")

    def expect(self, asked: Asked) -> None: ...

    def begin(self, begun: Begun) -> None: ...

    def comment(self) -> None: ...

    def event(self, data: bytes) -> None:
        self._note(decode(data))

    def plain(self, body: bytes) -> None:
        self._note(decode(body))

    def _note(self, found: Response) -> None:
        for choice in found.choices or ():
            if choice.index == 0:
                part = choice.delta or choice.message
                if part is not None and part.content:
                    self._text.append(part.content)
                self.finish_reason = choice.finish_reason or self.finish_reason
        if found.usage is not None:
            self.prompt_tokens = _fitting(found.usage.prompt_tokens)
            self.completion_tokens = _fitting(found.usage.completion_tokens)
            self._total = _fitting(found.usage.total_tokens)

    def take(self) -> list[bytes]:
        if not (self._streams and self._text):
            return []
        chunk = self._chunk(deltaText="".join(self._text))
        self._text.clear()
        if not self._told_first:
            self._told_first = True
            chunk.latencyMs = self._latency()
        return [chunk.SerializeToString()]

    def finish(self) -> list[bytes]:
        if not self.finish_reason:
            raise Broken("the worker's response ended without a finish reason")
        last = self._last_chunk() if self._streams else self._response()
        return [last.SerializeToString()]

    def _last_chunk(self) -> Any:
        return self._chunk(
            finishReason=self.finish_reason,
            promptTokens=self.prompt_tokens,
            completionTokens=self.completion_tokens,
            totalTokens=self._total,
            latencyMs=self._latency(),
        )

    def _response(self) -> Any:
        return self._whole(
            output_text="".join(self._text),
            finish_reason=self.finish_reason,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            total_tokens=self._total,
            latency_ms=self._latency(),
        )

    def _latency(self) -> int:
        return round((time.monotonic() - self._started) * 1000)


def _fitting(count: int) -> int:
    """Return a number of tokens as an int32 holds it."""
    return min(max(count, 0), MOST)
