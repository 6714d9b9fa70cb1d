"""Makes chat of one response of generate: a ResponseTranslator, and a Settling."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from gateway import NOT_JSON, CallError, GatewayError, Unreadable
from gateway_plugins.trace_capture.tito.answer.plain import (
    chat_answer,
    derender_request,
    messages_of,
)
from gateway_plugins.trace_capture.tito.answer.stream import ChoiceStream, Sent
from gateway_plugins.trace_capture.tito.answer.structs import (
    NOTHING,
    Asked,
    Choice,
    Generated,
    chat_id,
    decode_answer,
    encode,
)

DONE = b"data: [DONE]\n\n"

Derender = Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]]
"""Asks the engine that generated; raises UpstreamError."""


class Said(msgspec.Struct, frozen=True):
    """What a choice has said in the end: its message, its ids, and how it ended."""

    message: dict[str, Any]
    token_ids: list[int]
    finish_reason: str | None
    stop_reason: int | str | None


class GenerateAsChat:
    """The translator of one response. `said` is called once it is whole, with all choices."""

    def __init__(
        self, asked: Asked, derender: Derender, said: Callable[[Mapping[int, Said]], None]
    ) -> None:
        self._asked = asked
        self._derender = derender
        self._said = said
        self._created = int(time.time())
        self._id: str | None = None
        self._begun: set[int] = set()
        self._streams: dict[int, ChoiceStream] = {}
        self._usage = NOTHING
        self._failure: GatewayError | None = None
        self._plain: tuple[Generated, dict[int, dict[str, Any]]] | None = None
        self._parsing: asyncio.Task[None] | None = None
        self._send: Callable[[bytes], object] = _nowhere

    # of a Settling

    def begin(self, send: Callable[[bytes], bool]) -> None:
        self._send = send

    async def settle(self, body: bytes) -> None:
        if body:
            await self._settle_plain(body)
        while self._parsing is not None:
            await self._parsing
        if self._failure is not None and not body:
            raise self._failure

    def close(self) -> None:
        if self._parsing is not None:
            self._parsing.cancel()

    async def _settle_plain(self, body: bytes) -> None:
        try:
            generated = decode_answer(body)
        except NOT_JSON:
            return  # `answer` says so
        request = derender_request(self._asked, generated)
        try:
            derendered = {} if request is None else await self._derender(request)
            messages = messages_of(self._asked, generated, derendered)
        except (CallError, KeyError, TypeError) as error:
            self._failure = Unreadable(f"the worker could not make a message: {error}")
            return
        self._plain = generated, messages

    # of a ResponseTranslator

    def event(self, data: bytes) -> bytes:
        try:
            event = decode_answer(data)
        except NOT_JSON:
            return b"data: " + data + b"\n\n" if data else b""
        if event.error != NOTHING:
            return b"data: " + data + b"\n\n"
        self._id = self._id or chat_id(event.request_id)
        self._usage = event.usage
        return b"".join([self._chosen(choice) for choice in event.choices])

    @property
    def failure(self) -> str | None:
        return None  # of a stream, `settle` raises

    def comment(self) -> bytes:
        return b":\n\n"

    def end(self, *, done: bool) -> bytes:
        if not done:
            return b""
        self._said({index: _said(one) for index, one in self._streams.items()})
        if not self._asked.wants_usage:
            return DONE
        return self._frame([], usage=self._usage) + DONE

    def answer(self, body: bytes) -> bytes:
        if self._failure is not None:
            raise self._failure
        if self._plain is None:
            raise Unreadable("the worker's response is no response of generate")
        generated, messages = self._plain
        self._said({one.index: _whole(one, messages[one.index]) for one in generated.choices})
        return encode(chat_answer(self._asked, generated, messages))

    def refusal(self, status: int, body: bytes, call_id: str) -> bytes:
        return body  # generate has the envelope of chat

    def _chosen(self, choice: Choice) -> bytes:
        stream = self._streams.get(choice.index)
        if stream is None:
            stream = self._streams[choice.index] = ChoiceStream(self._asked)
        sent = stream.add(choice)
        if stream.waits and self._parsing is None:
            self._parsing = asyncio.create_task(self._parse())
        return b"" if sent is None else self._written(choice.index, sent)

    async def _parse(self) -> None:
        """Have the engine parse what waits, one piece after the other."""
        try:
            while waiting := [(i, one) for i, one in self._streams.items() if one.waits]:
                for index, stream in waiting:
                    piece, request = stream.take()
                    sent = stream.parsed(piece, await self._derender(request))
                    self._send(self._written(index, sent))
        except CallError as error:
            self._failure = error
        finally:
            self._parsing = None

    def _written(self, index: int, sent: Sent) -> bytes:
        first = index not in self._begun
        head = self._role(index) if first else b""
        ids = sent.token_ids if self._asked.returns_ids else None
        if not (sent.delta or sent.finish_reason or ids or sent.logprobs):
            return head
        choice = {
            "index": index,
            "delta": sent.delta,
            "logprobs": sent.logprobs,
            "finish_reason": sent.finish_reason,
        }
        if sent.finish_reason is not None:
            choice["stop_reason"] = sent.stop_reason
        return head + self._frame([{**choice, "token_ids": ids}])

    def _role(self, index: int) -> bytes:
        """Return the event with which a choice begins."""
        self._begun.add(index)
        delta = {"role": "assistant", "content": ""}
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        more: dict[str, object] = {}
        if self._asked.returns_ids:
            more["prompt_token_ids"] = self._asked.prompt
        if self._asked.wants_running_usage:
            count = len(self._asked.prompt)
            more["usage"] = {"prompt_tokens": count, "total_tokens": count, "completion_tokens": 0}
        return self._frame([choice], **more)

    def _frame(self, choices: list[dict[str, Any]], **more: object) -> bytes:
        head = {"id": self._id, "object": "chat.completion.chunk", "created": self._created}
        if self._asked.wants_running_usage:
            more = {"usage": self._usage, **more}
        event = {**head, "model": self._asked.model, "choices": choices, **more}
        return b"data: " + encode(event) + b"\n\n"


def _said(stream: ChoiceStream) -> Said:
    return Said(stream.message, stream.ids, stream.finish_reason, stream.stop_reason)


def _whole(choice: Choice, message: dict[str, Any]) -> Said:
    return Said(message, choice.token_ids or [], choice.finish_reason, choice.stop_reason)


def _nowhere(data: bytes) -> None:
    """Where events go before anybody takes them."""
