"""Responses of completions on the wire, plain and streamed."""

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
from gateway.simulator.engine.sequences import Alternative, Delta, score
from gateway.simulator.engine.tokens import decode, piece_text
from gateway.simulator.input.requests import CompletionRequest


class Logprobs(msgspec.Struct):
    """Parallel lists, one entry per token; equal names in `top_logprobs` share one entry."""

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class Choice(msgspec.Struct, kw_only=True):
    index: int
    text: str
    logprobs: Logprobs | None
    finish_reason: str | None
    stop_reason: int | str | None
    token_ids: list[int] | None
    prompt_logprobs: PromptLogprobs | None
    prompt_token_ids: list[int] | None
    routed_experts: None = None


class Completion(msgspec.Struct, kw_only=True):
    id: str
    object: str = "text_completion"
    created: int
    model: str
    choices: list[Choice]
    service_tier: None = None
    system_fingerprint: str | None
    usage: Usage
    kv_transfer_params: None = None
    ec_transfer_params: None = None
    metrics: None = None


class ChunkChoice(msgspec.Struct, kw_only=True):
    index: int
    text: str
    logprobs: Logprobs | None
    finish_reason: str | None
    stop_reason: int | str | None
    prompt_token_ids: list[int] | None
    token_ids: list[int] | None


class Chunk(msgspec.Struct, kw_only=True):
    id: str
    object: str = "text_completion"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | UnsetType = UNSET
    system_fingerprint: str | UnsetType = UNSET


class _ChoiceState:
    """State of one choice that is kept between events."""

    def __init__(self, prompt: list[int]) -> None:
        self.prompt = prompt
        self.completion_tokens = 0
        self.offset = 0
        self.begun = False


class CompletionsAnswer:
    """Writes the response to one request; see `generation.Answer`."""

    def __init__(
        self, request: CompletionRequest, prompts: list[list[int]], header: Header
    ) -> None:
        options = request.stream_options
        self.cached: int | None = None
        self._request = request
        self._header = header
        self._prompt_tokens = sum(map(len, prompts))
        self._with_usage = bool(options and options.include_usage)
        self._usage_always = bool(options and options.continuous_usage_stats)
        self._choices = [_ChoiceState(prompt) for prompt in prompts for _ in range(request.n or 1)]
        self._open = len(self._choices)

    @property
    def name(self) -> str:
        return self._header.id

    def opening(self) -> list[bytes]:
        return []

    def event(self, delta: Delta) -> bytes | None:
        chunk = self.chunk(delta)
        return None if chunk is None else msgspec.json.encode(chunk)

    def chunk(self, delta: Delta) -> Chunk | None:
        state = self._choices[delta.index]
        first = not state.begun
        if delta.finish_reason == "abort" and first and not delta.tokens:
            self._open -= 1  # the engine is silent about a choice that never began
            return None
        text, logprobs = self._said(delta, state)
        choice = ChunkChoice(
            index=delta.index,
            text=text,
            logprobs=logprobs,
            finish_reason=delta.finish_reason,
            stop_reason=delta.stop_reason,
            prompt_token_ids=self._prompt_ids(state) if first else None,
            token_ids=self._token_ids(delta),
        )
        chunk = self._chunk([choice])
        if self._usage_always:
            chunk.usage = running_usage(len(state.prompt), state.completion_tokens)
        if delta.finish_reason is not None:
            self._open -= 1
            if self._open == 0 and not self._with_usage:
                chunk.system_fingerprint = self._header.fingerprint
        return chunk

    def closing(self) -> bytes | None:
        if not self._with_usage:
            return None
        chunk = self._chunk([])
        chunk.usage = usage(self._prompt_tokens, self._completion_tokens(), self.cached)
        chunk.system_fingerprint = self._header.fingerprint
        return msgspec.json.encode(chunk)

    def whole(self, deltas: list[Delta]) -> bytes:
        return msgspec.json.encode(self.completion(deltas))

    def completion(self, deltas: list[Delta]) -> Completion:
        choices = [self._choice(delta, self._choices[delta.index]) for delta in deltas]
        return Completion(
            id=self._header.id,
            created=self._header.created,
            model=self._header.model,
            choices=choices,
            system_fingerprint=self._header.fingerprint,
            usage=plain_usage(self._prompt_tokens, self._completion_tokens(), self.cached),
        )

    def _choice(self, delta: Delta, state: _ChoiceState) -> Choice:
        text, logprobs = self._said(delta, state)
        return Choice(
            index=delta.index,
            text=text,
            logprobs=logprobs,
            finish_reason=delta.finish_reason,
            stop_reason=delta.stop_reason,
            token_ids=self._token_ids(delta),
            prompt_logprobs=self._prompt_logprobs(state),
            prompt_token_ids=self._prompt_ids(state),
        )

    def _said(self, delta: Delta, state: _ChoiceState) -> tuple[str, Logprobs | None]:
        """Return the text and logprobs of `delta`, after the prompt's if it is to be echoed."""
        echoes = bool(self._request.echo) and not state.begun
        state.begun = True
        state.completion_tokens += len(delta.tokens)
        # If ids are requested as well, the engine leaves the echoed prompt out of the text.
        before = decode(state.prompt) if echoes and not self._request.return_token_ids else ""
        return before + delta.text, self._logprobs(delta, state, echoes)

    def _logprobs(self, delta: Delta, state: _ChoiceState, echoes: bool) -> Logprobs | None:
        count = self._request.logprobs
        if count is None:
            return None
        logprobs = Logprobs([], [], [], [])
        if echoes:
            for number, place in zip(state.prompt, score(state.prompt, count), strict=True):
                self._append(logprobs, number, place or (), state)
        for token in delta.tokens:
            self._append(logprobs, token.id, token.alternatives, state)
        return logprobs

    def _append(
        self, logprobs: Logprobs, number: int, place: tuple[Alternative, ...], state: _ChoiceState
    ) -> None:
        """Add one token; `place` is empty for the first of a prompt, which has no score."""
        as_ids = bool(self._request.return_tokens_as_token_ids)
        scored = {token_name(token, as_ids): token.logprob for token in place}
        unscored = f"token_id:{number}" if as_ids else piece_text(number)
        logprobs.text_offset.append(state.offset)
        logprobs.tokens.append(token_name(place[0], as_ids) if place else unscored)
        logprobs.token_logprobs.append(place[0].logprob if place else None)
        logprobs.top_logprobs.append(scored or None)
        state.offset += len(logprobs.tokens[-1])

    def _prompt_logprobs(self, state: _ChoiceState) -> PromptLogprobs | None:
        count = self._request.prompt_logprobs
        if count is None and self._request.echo:
            count = self._request.logprobs
        return None if count is None else prompt_logprobs(state.prompt, count)

    def _prompt_ids(self, state: _ChoiceState) -> list[int] | None:
        return state.prompt if self._request.return_token_ids else None

    def _token_ids(self, delta: Delta) -> list[int] | None:
        return [token.id for token in delta.tokens] if self._request.return_token_ids else None

    def _completion_tokens(self) -> int:
        return sum(state.completion_tokens for state in self._choices)

    def _chunk(self, choices: list[ChunkChoice]) -> Chunk:
        header = self._header
        return Chunk(id=header.id, created=header.created, model=header.model, choices=choices)
