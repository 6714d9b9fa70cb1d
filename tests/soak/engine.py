"""An engine that costs little, and knows to the token what it has said to each call."""

import zlib
from random import Random
from typing import Any

import msgspec

from gateway.testing import DONE, sse

VOCABULARY = tuple(f"{a}{b}" for a in ("har", "fer", "qui", "no", "ro") for b in ("bo", "ry", "et"))
START, END = 1, 2
"""Tokens before and after each message."""

LONGEST = 24
"""Words of an answer, where its caller gives no most."""


class Tool(msgspec.Struct):
    function: dict[str, Any]


class StreamOptions(msgspec.Struct):
    include_usage: bool = False


class Request(msgspec.Struct):
    """As much of a request as matters here."""

    messages: list[dict[str, Any]] | None = None
    prompt: str | None = None
    stream: bool = False
    n: int = 1
    max_tokens: int = LONGEST
    tools: list[Tool] | None = None
    stream_options: StreamOptions | None = None
    return_token_ids: bool = False
    logprobs: bool | int | None = None

    @property
    def tells_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


def token_of(word: str) -> int:
    return 10 + zlib.crc32(word.encode()) % 30_000


def tokens_of(request: Request) -> list[int]:
    """Of the prompt; that of the next turn begins with this one and its answer."""
    if request.messages is None:
        return [START, *map(token_of, (request.prompt or "").split())]
    tokens = []
    for message in request.messages:
        words = str(message.get("content") or "").split()
        tokens += [START, *map(token_of, words), END]
    return [*tokens, START]


class Piece(msgspec.Struct, frozen=True):
    """Bytes of an answer's body, and the tokens in them; `told`: they have the usage."""

    data: bytes
    tokens: int = 0
    told: bool = False


class Answer:
    """The whole answer to a request, made before any of it is sent."""

    def __init__(self, call_id: str, request: Request, chance: Random) -> None:
        self._request = request
        self._prompt = tokens_of(request)
        words = (chance.randint(1, max(request.max_tokens - 1, 1)) for _ in range(request.n))
        self._texts = [chance.choices(VOCABULARY, k=count) for count in words]
        self.prompt = len(self._prompt)
        self.completion = sum(len(text) + 1 for text in self._texts)
        self.cached = self.prompt // 2
        self._head = {"id": call_id, "created": 1, "model": "soak", "object": "soak"}
        self._head["system_fingerprint"] = fingerprint([" ".join(text) for text in self._texts])

    def plain(self) -> bytes:
        choices = [self._choice(index) for index in range(len(self._texts))]
        ids = {"prompt_token_ids": self._prompt} if self._request.return_token_ids else {}
        if self._request.messages is None:
            choices = [{**choice, **ids} for choice in choices]
            ids = {}
        said = {**self._head, "choices": choices, "usage": self._usage(), **ids}
        return msgspec.json.encode(said)

    def pieces(self) -> list[Piece]:
        """The events of a stream, `[DONE]` being the last."""
        found = [piece for index in range(len(self._texts)) for piece in self._events(index)]
        if self._request.tells_usage:
            data = sse({**self._head, "choices": [], "usage": self._usage()})
            found.append(Piece(data, told=True))
        return [*found, Piece(DONE)]

    def _usage(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }

    def _choice(self, index: int) -> dict[str, Any]:
        words = self._texts[index]
        return {
            "index": index,
            **self._message(" ".join(words)),
            "finish_reason": "tool_calls" if self._request.tools else "stop",
            **self._details([*words, None]),
        }

    def _message(self, text: str) -> dict[str, Any]:
        if self._request.messages is None:
            return {"text": text}
        if self._request.tools:
            return {"message": {"role": "assistant", "content": None, **self._call(text)}}
        return {"message": {"role": "assistant", "content": text}}

    def _call(self, text: str, **more: object) -> dict[str, Any]:
        name = (self._request.tools or [Tool({"name": ""})])[0].function["name"]
        function = {"name": name, "arguments": msgspec.json.encode({"text": text}).decode()}
        return {"tool_calls": [{"id": "t1", "type": "function", "function": function, **more}]}

    def _details(self, words: list[str | None]) -> dict[str, Any]:
        """None is the end of the answer."""
        details: dict[str, Any] = {}
        if self._request.return_token_ids:
            details["token_ids"] = [END if word is None else token_of(word) for word in words]
        if self._request.logprobs:
            names = [word or "<end>" for word in words]
            details["logprobs"] = self._logprobs(names)
        return details

    def _logprobs(self, names: list[str]) -> dict[str, Any]:
        if self._request.messages is None:
            odds = [-0.5] * len(names)
            return {"tokens": names, "token_logprobs": odds, "top_logprobs": None}
        rest: dict[str, object] = {"logprob": -0.5, "bytes": None, "top_logprobs": []}
        return {"content": [{"token": name, **rest} for name in names]}

    def _events(self, index: int) -> list[Piece]:
        """Of one choice: a role, its words one by one, and its end; a tool's call comes whole."""
        words: list[str] = self._texts[index]
        chat = self._request.messages is not None
        found = (
            [self._event(index, {"delta": {"role": "assistant", "content": ""}})] if chat else []
        )
        if chat and self._request.tools:
            call = {"delta": self._call(" ".join(words), index=0)}
            found.append(self._event(index, call, list(words)))
        else:
            for number, word in enumerate(words):
                said = f" {word}" if number else word
                shown = {"delta": {"content": said}} if chat else {"text": said}
                found.append(self._event(index, shown, [word], first=not number))
        end: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
        end["finish_reason"] = "tool_calls" if self._request.tools else "stop"
        return [*found, self._event(index, end, [None])]

    def _event(
        self,
        index: int,
        said: dict[str, Any],
        words: list[str] | list[str | None] | list[None] | None = None,
        *,
        first: bool = False,
    ) -> Piece:
        details = self._details(list(words)) if words else {}
        choice = {"index": index, "finish_reason": None, **said, **details}
        ids = {"prompt_token_ids": self._prompt} if self._request.return_token_ids else {}
        if self._request.messages is None:
            choice.update(ids if first else {})
            ids = {}
        event = {**self._head, "choices": [choice], **(ids if words is None else {})}
        return Piece(sse(event), len(words or ()))


def fingerprint(texts: list[str]) -> str:
    """By which a caller knows that it has all of an answer."""
    return f"fp-{zlib.crc32('|'.join(texts).encode()):08x}"
