"""Responses of chat on the wire, plain and streamed."""

from secrets import token_hex

import msgspec
from msgspec import UNSET, UnsetType

from gateway.simulator.api.answers import (
    CompletionDetails,
    Header,
    Usage,
    plain_usage,
    prompt_logprobs,
    running_usage,
    token_name,
    usage,
)
from gateway.simulator.api.chat_shapes import (
    CalledFunction,
    Choice,
    Chunk,
    ChunkChoice,
    Completion,
    Logprobs,
    Message,
    MessageDelta,
    TokenLogprob,
    ToolCall,
    TopLogprob,
)
from gateway.simulator.api.toolcalls import Started, ToolEvent, ToolParser
from gateway.simulator.engine.reasoning import ReasoningParser
from gateway.simulator.engine.sequences import Delta, Token
from gateway.simulator.input.requests import ChatRequest, NamedTool


class ChatAnswer:
    """Writes the response to one request; see `generation.Answer`.

    `reasoning`: what the model thinks is told from what it says.
    """

    def __init__(
        self, request: ChatRequest, prompt: list[int], header: Header, *, reasoning: bool = False
    ) -> None:
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
        self._thoughts = [ReasoningParser() for _ in self._counts] if reasoning else []
        # Without its reasoning the engine tells of no token of the answer.
        details = request.include_reasoning or not reasoning
        self._with_ids = bool(request.return_token_ids) and details
        self._with_logprobs = bool(request.logprobs) and details

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
        detailed = self._with_ids or self._with_logprobs
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
        counted = usage(len(self._prompt), sum(self._counts), self.cached, created=0)
        chunk = self._chunk([], self._with_thoughts(counted))
        chunk.system_fingerprint = self._header.fingerprint
        return msgspec.json.encode(chunk)

    def whole(self, deltas: list[Delta]) -> bytes:
        return msgspec.json.encode(self.completion(deltas))

    def completion(self, deltas: list[Delta]) -> Completion:
        scored = self._request.prompt_logprobs
        tokens = sum(len(delta.tokens) for delta in deltas)
        counted = plain_usage(len(self._prompt), tokens, self.cached, created=0)
        choices = [self._choice(delta) for delta in deltas]
        return Completion(
            id=self._header.id,
            created=self._header.created,
            model=self._header.model,
            choices=choices,
            system_fingerprint=self._header.fingerprint,
            usage=self._with_thoughts(counted),
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
        thoughts, text = self._split(delta)
        message = Message(content=text, reasoning=thoughts)
        if not self._parsers:
            return message
        parser = self._parsers[delta.index]
        content, events = parser.feed(text or "", last=True)
        if not parser.whole:
            return message
        # Without text, `content` is null if the model chose to call, "" if the call was forced.
        own_choice = self._request.tool_choice in (None, "auto")
        message.content = content.strip() or (None if own_choice else "")
        message.tool_calls = _calls(events, streamed=False)
        return message

    def _split(self, delta: Delta) -> tuple[str | None, str | None]:
        """Return the thoughts of a whole choice, and what it says; None if it has none."""
        if not self._thoughts:
            return None, delta.text
        parser = self._thoughts[delta.index]
        parser.count(token.id for token in delta.tokens)
        thoughts, text = parser.feed(delta.text, last=True)
        return (thoughts or None) if self._request.include_reasoning else None, text or None

    def _added(self, delta: Delta) -> MessageDelta:
        last = delta.finish_reason is not None
        thoughts, content, events = "", delta.text, list[ToolEvent]()
        if self._thoughts:
            parser = self._thoughts[delta.index]
            parser.count(token.id for token in delta.tokens)
            thoughts, content = parser.feed(delta.text, last=last)
        if self._parsers:
            content, events = self._parsers[delta.index].feed(content, last=last)
        added = MessageDelta(content=content) if content else MessageDelta()
        if events:
            added = MessageDelta(UNSET, content or None, _calls(events, streamed=True))
        if thoughts and self._request.include_reasoning:
            added.reasoning = thoughts
        elif self._thoughts and content and not self._request.include_reasoning:
            added.reasoning = None
        return added

    def _with_thoughts(self, counted: Usage) -> Usage:
        if self._thoughts:
            tokens = sum(parser.tokens for parser in self._thoughts)
            counted.completion_tokens_details = CompletionDetails(tokens)
        return counted

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
        return [token.id for token in tokens] if self._with_ids else None

    def _logprobs(self, tokens: list[Token]) -> Logprobs | None:
        if not self._with_logprobs:
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
