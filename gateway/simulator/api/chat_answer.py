"""Responses of chat on the wire, plain and streamed."""

from secrets import token_hex

import msgspec
from msgspec import UNSET, UnsetType

from gateway.simulator.api.answers import (
    Header,
    PromptLogprobs,
    Usage,
    plain_usage,
    prompt_logprobs,
    running_usage,
    token_name,
    usage,
)
from gateway.simulator.api.toolcalls import Started, ToolEvent, ToolParser
from gateway.simulator.engine.sequences import Delta, Token
from gateway.simulator.input.requests import ChatRequest, NamedTool


class TopLogprob(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class Logprobs(msgspec.Struct):
    content: list[TokenLogprob]


class CalledFunction(msgspec.Struct):
    name: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET


class ToolCall(msgspec.Struct):
    """A tool call; in a stream, the part of call `index` that one event adds."""

    id: str | UnsetType
    type: str | UnsetType
    index: int | UnsetType
    function: CalledFunction


class Message(msgspec.Struct, kw_only=True):
    role: str = "assistant"
    content: str | None
    refusal: None = None
    annotations: None = None
    audio: None = None
    function_call: None = None
    tool_calls: list[ToolCall] | UnsetType = UNSET
    reasoning: None = None


class Choice(msgspec.Struct, kw_only=True):
    index: int
    message: Message
    logprobs: Logprobs | None
    finish_reason: str | None
    stop_reason: int | str | None
    token_ids: list[int] | None
    routed_experts: None = None


class Completion(msgspec.Struct, kw_only=True):
    id: str
    object: str = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    service_tier: None = None
    system_fingerprint: str | None
    usage: Usage
    prompt_logprobs: PromptLogprobs | None
    prompt_token_ids: list[int] | None
    prompt_text: None = None
    kv_transfer_params: None = None
    ec_transfer_params: None = None
    metrics: None = None


class MessageDelta(msgspec.Struct):
    role: str | UnsetType = UNSET
    content: str | UnsetType | None = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET


class ChunkChoice(msgspec.Struct, kw_only=True):
    index: int
    delta: MessageDelta
    logprobs: Logprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | UnsetType | None = UNSET
    token_ids: list[int] | UnsetType | None = UNSET


class Chunk(msgspec.Struct, kw_only=True):
    id: str
    object: str = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | UnsetType = UNSET
    system_fingerprint: str | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType | None = UNSET
    prompt_text: UnsetType | None = UNSET


class ChatAnswer:
    """Writes the response to one request; see `generation.Answer`."""

    def __init__(self, request: ChatRequest, prompt: list[int], header: Header) -> None:
        options = request.stream_options
        self.cached: int | None = None
        self._request = request
        self._prompt = prompt
        self._header = header
        self._with_usage = bool(options and options.include_usage)
        self._usage_always = bool(options and options.continuous_usage_stats)
        self._as_ids = bool(request.return_tokens_as_token_ids)
        self._counts = [0] * (request.n or 1)
        self._open = len(self._counts)
        self._parsers = [ToolParser() for _ in self._counts] if _may_call(request) else []

    @property
    def name(self) -> str:
        return self._header.id

    def opening(self) -> list[bytes]:
        return [self._role(index) for index in range(len(self._counts))]

    def event(self, delta: Delta) -> bytes | None:
        chunk = self.chunk(delta)
        return None if chunk is None else msgspec.json.encode(chunk)

    def chunk(self, delta: Delta) -> Chunk | None:
        self._counts[delta.index] += len(delta.tokens)
        if delta.finish_reason == "abort" and not self._counts[delta.index]:
            self._open -= 1  # the engine is silent about a choice that never began
            return None
        added = self._added(delta)
        detailed = self._request.return_token_ids or self._request.logprobs
        if added == MessageDelta() and not detailed and delta.finish_reason is None:
            return None
        choice = ChunkChoice(
            index=delta.index,
            delta=added,
            logprobs=self._logprobs(delta.tokens),
            finish_reason=self._finish_reason(delta),
            token_ids=self._token_ids(delta.tokens),
        )
        chunk = self._chunk([choice], self._running_usage(delta.index))
        if delta.finish_reason is not None:
            choice.stop_reason = delta.stop_reason
            self._open -= 1
            if self._open == 0 and not self._with_usage:
                chunk.system_fingerprint = self._header.fingerprint
        return chunk

    def closing(self) -> bytes | None:
        if not self._with_usage:
            return None
        chunk = self._chunk([], usage(len(self._prompt), sum(self._counts), self.cached, created=0))
        chunk.system_fingerprint = self._header.fingerprint
        return msgspec.json.encode(chunk)

    def whole(self, deltas: list[Delta]) -> bytes:
        return msgspec.json.encode(self.completion(deltas))

    def completion(self, deltas: list[Delta]) -> Completion:
        scored = self._request.prompt_logprobs
        tokens = sum(len(delta.tokens) for delta in deltas)
        return Completion(
            id=self._header.id,
            created=self._header.created,
            model=self._header.model,
            choices=[self._choice(delta) for delta in deltas],
            system_fingerprint=self._header.fingerprint,
            usage=plain_usage(len(self._prompt), tokens, self.cached, created=0),
            prompt_logprobs=None if scored is None else prompt_logprobs(self._prompt, scored),
            prompt_token_ids=self._prompt if self._request.return_token_ids else None,
        )

    def _role(self, index: int) -> bytes:
        choice = ChunkChoice(index=index, delta=MessageDelta("assistant", ""))
        chunk = self._chunk([choice], self._running_usage(index))
        chunk.prompt_token_ids = self._prompt if self._request.return_token_ids else None
        chunk.prompt_text = None
        return msgspec.json.encode(chunk)

    def _choice(self, delta: Delta) -> Choice:
        message = self._message(delta)
        return Choice(
            index=delta.index,
            message=message,
            finish_reason=self._finish_reason(delta),
            stop_reason=delta.stop_reason,
            logprobs=self._logprobs(delta.tokens),
            token_ids=self._token_ids(delta.tokens),
        )

    def _message(self, delta: Delta) -> Message:
        if not self._parsers:
            return Message(content=delta.text)
        parser = self._parsers[delta.index]
        content, events = parser.feed(delta.text, last=True)
        if not parser.whole:
            return Message(content=delta.text)
        # Without text, `content` is null if the model chose to call, "" if the call was forced.
        own_choice = self._request.tool_choice in (None, "auto")
        calls = _calls(events, streamed=False)
        return Message(content=content.strip() or (None if own_choice else ""), tool_calls=calls)

    def _added(self, delta: Delta) -> MessageDelta:
        content, events = delta.text, list[ToolEvent]()
        if self._parsers:
            last = delta.finish_reason is not None
            content, events = self._parsers[delta.index].feed(delta.text, last=last)
        if events:
            return MessageDelta(UNSET, content or None, _calls(events, streamed=True))
        return MessageDelta(content=content) if content else MessageDelta()

    def _finish_reason(self, delta: Delta) -> str | None:
        called = bool(self._parsers) and self._parsers[delta.index].whole
        named = isinstance(self._request.tool_choice, NamedTool)
        if delta.finish_reason == "stop" and called and not named:
            return "tool_calls"
        return delta.finish_reason

    def _chunk(self, choices: list[ChunkChoice], used: Usage | UnsetType) -> Chunk:
        header = self._header
        return Chunk(
            id=header.id, created=header.created, model=header.model, choices=choices, usage=used
        )

    def _running_usage(self, index: int) -> Usage | UnsetType:
        if not self._usage_always:
            return UNSET
        return running_usage(len(self._prompt), self._counts[index])

    def _token_ids(self, tokens: list[Token]) -> list[int] | None:
        return [token.id for token in tokens] if self._request.return_token_ids else None

    def _logprobs(self, tokens: list[Token]) -> Logprobs | None:
        if not self._request.logprobs:
            return None
        return Logprobs([self._logprob(token) for token in tokens])

    def _logprob(self, token: Token) -> TokenLogprob:
        sampled = token.alternatives[0]
        shown = token.alternatives[: self._request.top_logprobs or 0]
        names = [token_name(other, self._as_ids) for other in shown]
        top = [
            TopLogprob(name, other.logprob, list(name.encode()))
            for name, other in zip(names, shown, strict=True)
        ]
        # The engine sends the bytes of the sampled token's text, but those of the others' names.
        text = sampled.text.encode()
        return TokenLogprob(token_name(sampled, self._as_ids), sampled.logprob, list(text), top)


def _may_call(request: ChatRequest) -> bool:
    return bool(request.tools) and request.tool_choice != "none"


def _calls(events: list[ToolEvent], *, streamed: bool) -> list[ToolCall]:
    """Return one entry per call, in order: one event may bring its name and arguments."""
    calls: dict[int, ToolCall] = {}
    for event in events:
        call = calls.get(event.index)
        if call is None:
            index = event.index if streamed else UNSET
            call = calls[event.index] = ToolCall(UNSET, UNSET, index, CalledFunction())
        if isinstance(event, Started):
            call.id, call.type = f"chatcmpl-tool-{token_hex(8)}", "function"
            call.function.name = event.name
        else:
            call.function.arguments = (call.function.arguments or "") + event.text
    return list(calls.values())
