"""Request bodies of generate and derender, with the fields that the simulator reads."""

from typing import Literal

import msgspec

from gateway.simulator.input.requests import (
    ChatRequest,
    CompletionRequest,
    StreamOptions,
    StructuredOutputs,
)

OutputMode = Literal["tokens", "text"]


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """How generate samples. `max_tokens` None or absent is all that the context leaves."""

    n: int = 1
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = None
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    detokenize: bool = True
    include_stop_str_in_output: bool = False
    structured_outputs: StructuredOutputs | None = None
    allowed_token_ids: list[int] | None = None
    stream_interval: int | None = None


class GenerateRequest(msgspec.Struct, frozen=True, kw_only=True):
    token_ids: list[int]
    sampling_params: SamplingParams
    model: str | None = None
    request_id: str | None = None
    return_token_ids: bool | None = None
    output_mode: OutputMode = "tokens"
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    cache_salt: str | None = None


class GeneratedChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One choice of a response of generate; without ids there is nothing to derender."""

    index: int
    token_ids: list[int] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


class Generated(msgspec.Struct, frozen=True, kw_only=True):
    """A response of generate, as its caller hands it back."""

    choices: list[GeneratedChoice]
    request_id: str


class DerenderChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A whole response with `generate_response`, one event of a stream with `generate_chunk`."""

    model: str | None = None
    stream: bool = False
    generate_response: Generated | None = None
    generate_chunk: Generated | None = None
    stream_state: "StreamState | None" = None
    prompt_tokens: int | None = None
    prompt_token_ids: list[int] | None = None
    chat_request: ChatRequest | None = None


class DerenderCompletionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Whole responses, one for each prompt, or one event of a stream."""

    model: str | None = None
    stream: bool = False
    generate_responses: list[Generated] | None = None
    generate_chunk: Generated | None = None
    stream_state: "StreamState | None" = None
    prompt_tokens: list[int] | int | None = None
    completion_request: CompletionRequest | None = None


class StreamState(msgspec.Struct, kw_only=True):
    """What the caller of a streamed derender carries from one event to the next."""

    prev_tokens: list[str] = []
    prefix_offset: int = 0
    read_offset: int = 0
    role_sent: bool = False
    logprob_context_token_ids: list[int] = []
    logprob_text_offset: int = 0
    output_token_ids: list[int] = []
    output_chunk_lens: list[int] = []
    tools_streamed: bool = False
    last_tool_call_ids: list[str] = []
