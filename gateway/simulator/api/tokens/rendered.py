"""A rendered request, which can be posted to generate as it is."""

import json
from typing import TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from gateway.simulator.engine.sampler import GREEDY_BELOW
from gateway.simulator.input.requests import ChatRequest, GenerationRequest, NamedTool
from gateway.simulator.preparing import Plan

T = TypeVar("T")

_DELTA, _FINAL = 1, 2


class StructuredOutputs(msgspec.Struct, kw_only=True):
    json: object = None
    regex: None = None
    choice: list[str] | None = None
    grammar: None = None
    json_object: bool | None = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    whitespace_pattern: None = None
    structural_tag: str | None = None
    backend: None = msgspec.field(default=None, name="_backend")
    backend_was_auto: bool = msgspec.field(default=False, name="_backend_was_auto")


class SamplingParams(msgspec.Struct, kw_only=True):
    n: int | UnsetType = UNSET
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float
    temperature: float
    top_p: float | UnsetType = UNSET
    top_k: int | UnsetType = UNSET
    min_p: float | UnsetType = UNSET
    seed: int | UnsetType = UNSET
    stop: list[str]
    stop_token_ids: list[int]
    ignore_eos: bool | UnsetType = UNSET
    max_tokens: int
    min_tokens: int | UnsetType = UNSET
    logprobs: int | UnsetType = UNSET
    prompt_logprobs: int | UnsetType = UNSET
    skip_special_tokens: bool | UnsetType = UNSET
    include_stop_str_in_output: bool | UnsetType = UNSET
    output_kind: int
    stream_interval: int | UnsetType = UNSET
    skip_clone: bool = True
    output_text_buffer_length: int | UnsetType = UNSET
    structured_outputs: StructuredOutputs | UnsetType = UNSET
    allowed_token_ids: list[int] | UnsetType = UNSET
    extra_args: dict[str, str] | UnsetType = UNSET
    bad_words: list[str]
    skip_reading_prefix_cache: bool
    thinking_token_budget: int | UnsetType = UNSET


class StreamOptions(msgspec.Struct):
    include_usage: bool
    continuous_usage_stats: bool


class ReasoningParserKwargs(msgspec.Struct):
    chat_template_kwargs: dict[str, object] = {}


class Rendered(msgspec.Struct, kw_only=True):
    request_id: str
    token_ids: list[int]
    token_offsets: None = None
    features: None = None
    content_parts: None = None
    sampling_params: SamplingParams
    model: str | None
    reasoning_ended: bool | None = None
    reasoning_parser_kwargs: ReasoningParserKwargs | None = None
    return_token_ids: None = None
    output_mode: str = "tokens"
    stream: bool
    stream_options: StreamOptions | None
    cache_salt: str | None
    priority: int
    kv_transfer_params: None = None
    ec_transfer_params: None = None


def rendered(plan: Plan, name: str, longest: int) -> list[Rendered]:
    """Return one request for each prompt of `plan`; `longest` is the context length in tokens."""
    request = plan.request
    names = (
        [name] if len(plan.prompts) == 1 else [f"{name}-{at}" for at in range(len(plan.prompts))]
    )
    return [
        Rendered(
            request_id=own,
            token_ids=ids,
            sampling_params=_sampling(plan, longest - len(ids)),
            model=request.model,
            stream=bool(request.stream),
            stream_options=_stream_options(request),
            cache_salt=request.cache_salt,
            priority=request.priority,
        )
        for own, ids in zip(names, plan.prompts, strict=True)
    ]


def of_reasoning(one: Rendered) -> Rendered:
    """Return a chat's request as a server with a reasoning parser renders it."""
    one.reasoning_ended, one.reasoning_parser_kwargs = False, ReasoningParserKwargs()
    return one


def of_responses(one: Rendered) -> Rendered:
    """Return a request as Responses renders it."""
    one.sampling_params.extra_args = {}
    one.stream_options = None
    return one


def _stream_options(request: GenerationRequest) -> StreamOptions | None:
    options = request.stream_options
    if options is None or not request.stream:
        return None
    return StreamOptions(bool(options.include_usage), bool(options.continuous_usage_stats))


def _sampling(plan: Plan, room: int) -> SamplingParams:
    request = plan.request
    stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
    longest_stop = max(map(len, stop), default=0)
    params = SamplingParams(
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        repetition_penalty=_number(request.repetition_penalty, 1.0),
        temperature=_number(request.temperature, 1.0),
        stop=stop,
        stop_token_ids=request.stop_token_ids or [],
        max_tokens=room if plan.max_tokens is None else min(plan.max_tokens, room),
        output_kind=_DELTA if request.stream else _FINAL,
        output_text_buffer_length=longest_stop - 1 if longest_stop > 1 else UNSET,
        structured_outputs=_structured(request),
        bad_words=[],
        skip_reading_prefix_cache=request.prompt_logprobs is not None,
    )
    _keep(params, plan)
    return params


def _keep(params: SamplingParams, plan: Plan) -> None:
    """Add the fields that the engine leaves out if they have their defaults."""
    request = plan.request
    params.n = request.n if request.n not in (None, 1) else UNSET
    params.seed = _set(request.seed)
    params.ignore_eos = request.ignore_eos or UNSET
    params.min_tokens = request.min_tokens or UNSET
    params.logprobs = _set(plan.logprobs)
    params.prompt_logprobs = _set(request.prompt_logprobs)
    params.include_stop_str_in_output = request.include_stop_str_in_output or UNSET
    params.stream_interval = _set(request.stream_interval)
    params.allowed_token_ids = _set(request.allowed_token_ids)
    params.thinking_token_budget = _set(request.thinking_token_budget)
    if isinstance(request, ChatRequest) and request.tools and request.tool_choice != "none":
        params.skip_special_tokens = False
    if _number(request.temperature, 1.0) >= GREEDY_BELOW:
        params.top_p, params.top_k = _set(request.top_p), _set(request.top_k)
        params.min_p = _set(request.min_p)


def _set(value: T | None) -> T | UnsetType:
    return UNSET if value is None else value


def _number(value: float | None, default: float) -> float:
    return default if value is None else value


def _structured(request: GenerationRequest) -> StructuredOutputs | UnsetType:
    outputs, answer = request.structured_outputs, request.response_format
    if outputs is not None:
        tag = outputs.structural_tag
        return StructuredOutputs(json=outputs.json, choice=outputs.choice, structural_tag=tag)
    if answer is not None and answer.type == "json_schema" and answer.json_schema is not None:
        return StructuredOutputs(json=answer.json_schema.schema)
    if answer is not None and answer.type == "json_object":
        return StructuredOutputs(json_object=True)
    tag = _forced_call(request)
    return UNSET if tag is None else StructuredOutputs(structural_tag=tag)


def _forced_call(request: GenerationRequest) -> str | None:
    """Return the grammar that makes the model call a tool, None if it may choose."""
    if not isinstance(request, ChatRequest):
        return None
    named = isinstance(request.tool_choice, NamedTool)
    if not named and request.tool_choice != "required":
        return None
    names = [tool.function.name for tool in request.tools or ()]
    if isinstance(request.tool_choice, NamedTool):
        names = [request.tool_choice.function.name]
    tags = [_tag(name, gap) for name in names for gap in ("\n", "")]
    form = {"type": "tags_with_separator", "tags": tags, "separator": "", "at_least_one": True}
    return json.dumps({"type": "structural_tag", "format": {**form, "stop_after_first": named}})


def _tag(name: str, gap: str) -> dict[str, object]:
    schema: dict[str, object] = {"type": "json_schema", "json_schema": True, "style": "json"}
    schema |= {"any_order": False, "max_whitespace_cnt": None, "excludes": []}
    begin = f'<tool_call>{gap}{{"name": {json.dumps(name)}, "arguments": '
    return {"type": "tag", "begin": begin, "content": schema, "end": f"}}{gap}</tool_call>"}
