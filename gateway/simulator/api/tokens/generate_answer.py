"""Responses of generate on the wire, plain and streamed."""

import msgspec
from msgspec import UNSET, UnsetType

from gateway.simulator.api.answers import (
    Header,
    PromptLogprobs,
    Usage,
    plain_usage,
    prompt_logprobs,
    running_usage,
    usage,
)
from gateway.simulator.api.chat_shapes import Logprobs as TextLogprobs
from gateway.simulator.api.chat_shapes import TokenLogprob, TopLogprob
from gateway.simulator.engine.sequences import Alternative, Delta, Span, Token
from gateway.simulator.input.tokens import GenerateRequest, OutputMode


class IdLogprob(msgspec.Struct):
    token_id: int
    logprob: float
    rank: int


class SampledLogprob(msgspec.Struct):
    token_id: int
    logprob: float
    rank: int
    top_logprobs: list[IdLogprob]


class IdLogprobs(msgspec.Struct):
    content: list[SampledLogprob]


class Choice(msgspec.Struct, kw_only=True):
    """A choice of a response, and of an event of a stream; `text` only in mode "text"."""

    index: int
    finish_reason: str | None
    stop_reason: int | str | None
    token_ids: list[int]
    routed_experts: None = None
    sampling_mask: None = None
    weight_versions: list[Span] | None
    text: str | UnsetType
    logprobs: IdLogprobs | TextLogprobs | None


class Response(msgspec.Struct, kw_only=True):
    request_id: str
    model: str
    created: int
    usage: Usage
    prompt_logprobs: PromptLogprobs | None
    prompt_token_id_logprobs: None = None
    prompt_token_ids: list[int] | None
    mm_placeholders: None = None
    metrics: None = None
    kv_transfer_params: None = None
    ec_transfer_params: None = None
    output_mode: OutputMode
    choices: list[Choice]


class Chunk(msgspec.Struct, kw_only=True):
    request_id: str
    usage: Usage | None = None
    prompt_token_ids: list[int] | UnsetType = UNSET
    output_mode: OutputMode
    choices: list[Choice]


class GenerateAnswer:
    """Writes the response to one request; see `generation.Answer`."""

    def __init__(self, request: GenerateRequest, header: Header) -> None:
        options = request.stream_options
        self.cached: int | None = None
        self._request = request
        self._header = header
        self._prompt = request.token_ids
        self._with_usage = bool(options and options.include_usage)
        self._usage_always = bool(options and options.continuous_usage_stats)
        self._counts = [0] * request.sampling_params.n
        self._begun = False

    @property
    def name(self) -> str:
        return self._header.id

    def opening(self) -> list[bytes]:
        return []

    def event(self, delta: Delta) -> bytes:
        self._counts[delta.index] += len(delta.tokens)
        chunk = self._chunk([self._choice(delta)])
        if self._usage_always:
            chunk.usage = running_usage(len(self._prompt), self._counts[delta.index])
        if self._request.return_token_ids and not self._begun:
            chunk.prompt_token_ids = self._prompt
        self._begun = True
        return msgspec.json.encode(chunk)

    def closing(self) -> bytes | None:
        if not self._with_usage:
            return None
        chunk = self._chunk([])
        chunk.usage = usage(len(self._prompt), sum(self._counts), self.cached)
        return msgspec.json.encode(chunk)

    def whole(self, deltas: list[Delta]) -> bytes:
        scored = self._request.sampling_params.prompt_logprobs
        tokens = sum(len(delta.tokens) for delta in deltas)
        response = Response(
            request_id=self._header.id,
            model=self._header.model,
            created=self._header.created,
            usage=plain_usage(len(self._prompt), tokens, self.cached),
            prompt_logprobs=None if scored is None else prompt_logprobs(self._prompt, scored),
            prompt_token_ids=self._prompt if self._request.return_token_ids else None,
            output_mode=self._request.output_mode,
            choices=[self._choice(delta) for delta in deltas],
        )
        return msgspec.json.encode(response)

    def _chunk(self, choices: list[Choice]) -> Chunk:
        mode = self._request.output_mode
        return Chunk(request_id=self._header.id, output_mode=mode, choices=choices)

    def _choice(self, delta: Delta) -> Choice:
        return Choice(
            index=delta.index,
            finish_reason=delta.finish_reason,
            stop_reason=delta.stop_reason,
            token_ids=[token.id for token in delta.tokens],
            weight_versions=None if delta.finish_reason is None else list(delta.spans),
            text=delta.text if self._request.output_mode == "text" else UNSET,
            logprobs=self._logprobs(delta.tokens),
        )

    def _logprobs(self, tokens: list[Token]) -> IdLogprobs | TextLogprobs | None:
        asked = self._request.sampling_params.logprobs
        if asked is None:
            return None
        # With 0 alternatives the engine still lists the sampled token among them.
        count = max(asked, 1)
        if self._request.output_mode == "text":
            return TextLogprobs([_by_text(token, count) for token in tokens])
        return IdLogprobs([_by_id(token, count) for token in tokens])


def _by_id(token: Token, count: int) -> SampledLogprob:
    top = [IdLogprob(one.id, one.logprob, one.rank) for one in token.alternatives[:count]]
    sampled = token.alternatives[0]
    return SampledLogprob(sampled.id, sampled.logprob, sampled.rank, top)


def _by_text(token: Token, count: int) -> TokenLogprob:
    top = [_top(one) for one in token.alternatives[:count]]
    sampled = token.alternatives[0]
    return TokenLogprob(sampled.text, sampled.logprob, list(sampled.text.encode()), top)


def _top(one: Alternative) -> TopLogprob:
    return TopLogprob(one.text, one.logprob, list(one.text.encode()))
