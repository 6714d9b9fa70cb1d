"""The two `/derender` routes: from the ids of generate to a response of chat or of completions."""

import time
from secrets import token_hex

import msgspec

from gateway.simulator.api.answers import Header, plain_usage
from gateway.simulator.api.chat_answer import ChatAnswer
from gateway.simulator.api.chat_shapes import Completion as ChatCompletion
from gateway.simulator.api.completions_answer import Completion, CompletionsAnswer
from gateway.simulator.api.tokens.derender_stream import Derendered, chat_event, completion_event
from gateway.simulator.config import SimulatorConfig
from gateway.simulator.engine.sequences import Delta, Token
from gateway.simulator.engine.tokens import Detokenizer
from gateway.simulator.input.refusals import Refused, bad_request, missing, parse
from gateway.simulator.input.requests import ChatRequest, CompletionRequest
from gateway.simulator.input.tokens import (
    DerenderChatRequest,
    DerenderCompletionRequest,
    Generated,
    GeneratedChoice,
)
from gateway.simulator.preparing import check_model, check_vocabulary

_NO_REQUEST = (
    "chat_request is required when a tool or reasoning parser is configured because plain "
    "detokenization would leak raw parser markup into content."
)
_NO_PROMPT = (
    "prompt_token_ids is required when a tool or reasoning parser is configured. Without it "
    "parse_delta cannot tell whether the prompt left reasoning open (e.g. a chat template that "
    "pre-opens <think>) and would misclassify reasoning content as plain content."
)


def derender_chat(body: bytes, config: SimulatorConfig) -> ChatCompletion | Derendered:
    """Return the response of chat that has the given ids, or one event of it; raises Refused."""
    asked = parse(body, DerenderChatRequest)
    check_model(asked.model, config)
    if asked.chat_request is None:
        raise bad_request(_NO_REQUEST)
    if asked.stream:
        if asked.prompt_token_ids is None:
            raise bad_request(_NO_PROMPT)
        chunk = _checked(asked.generate_chunk, "generate_chunk", config)
        head, state = _header(chunk, config), asked.stream_state
        return chat_event(asked.chat_request, chunk, state, head, reasoning=config.reasoning)
    generated = _checked(asked.generate_response, "generate_response", config)
    return _chat(asked.chat_request, generated, asked.prompt_tokens or 0, config)


def derender_completion(body: bytes, config: SimulatorConfig) -> Completion | Derendered:
    """Return the response of completions that has the given ids; raises Refused."""
    asked = parse(body, DerenderCompletionRequest)
    check_model(asked.model, config)
    request = asked.completion_request or CompletionRequest()
    if asked.stream:
        chunk = _checked(asked.generate_chunk, "generate_chunk", config)
        return completion_event(request, chunk, asked.stream_state, _header(chunk, config))
    if asked.generate_responses is None:
        raise missing("body.generate_responses", {})
    if not asked.generate_responses:
        raise bad_request("generate_responses must not be empty")
    for generated in asked.generate_responses:
        _checked(generated, "generate_responses", config)
    told = asked.prompt_tokens
    prompt_tokens = sum(told) if isinstance(told, list) else told or 0
    return _completion(request, asked.generate_responses, prompt_tokens, config)


def _checked(generated: Generated | None, name: str, config: SimulatorConfig) -> Generated:
    if generated is None:
        raise missing(f"body.{name}", {})
    for choice in generated.choices:
        ids = choice.token_ids or ()
        check_vocabulary(ids)
        if len(ids) > config.max_model_len:
            raise _too_long(choice.index, len(ids), config)
    return generated


def _too_long(index: int, length: int, config: SimulatorConfig) -> Refused:
    return bad_request(
        f"token_ids length ({length}) in choice {index} exceeds "
        f"max_model_len ({config.max_model_len})."
    )


def _header(generated: Generated, config: SimulatorConfig) -> Header:
    return Header(generated.request_id, int(time.time()), config.model, "")


def _chat(
    request: ChatRequest, generated: Generated, prompt_tokens: int, config: SimulatorConfig
) -> ChatCompletion:
    deltas = [_delta(place, one) for place, one in enumerate(generated.choices)]
    request = msgspec.structs.replace(request, n=len(deltas), logprobs=False, prompt_logprobs=None)
    found = ChatAnswer(
        request, [], _header(generated, config), reasoning=config.reasoning
    ).completion(deltas)
    # The engine repeats the reason that generate gave, even beside tool calls.
    for choice, told in zip(found.choices, generated.choices, strict=True):
        choice.index, choice.finish_reason = told.index, told.finish_reason
        for call in choice.message.tool_calls or ():
            call.id = token_hex(8)
    found.usage = plain_usage(prompt_tokens, found.usage.completion_tokens)
    found.system_fingerprint = found.prompt_token_ids = None
    return found


def _completion(
    request: CompletionRequest,
    responses: list[Generated],
    prompt_tokens: int,
    config: SimulatorConfig,
) -> Completion:
    choices = [choice for generated in responses for choice in generated.choices]
    deltas = [_delta(place, one) for place, one in enumerate(choices)]
    asked = CompletionRequest(n=len(deltas), return_token_ids=request.return_token_ids)
    answer = CompletionsAnswer(asked, [[]], _header(responses[0], config))
    found = answer.completion(deltas)
    found.usage = plain_usage(prompt_tokens, found.usage.completion_tokens)
    found.system_fingerprint = None
    for choice in found.choices:
        choice.prompt_token_ids = None
    return found


def _delta(place: int, choice: GeneratedChoice) -> Delta:
    """Return a whole choice as the engine's answers take it; raises Refused if it has no ids."""
    if not choice.token_ids:
        raise bad_request(f"choice {choice.index} has empty or null token_ids")
    detokenizer = Detokenizer()
    text = "".join(map(detokenizer.add, choice.token_ids))
    tokens = [Token(number) for number in choice.token_ids]
    return Delta(place, text, tokens, choice.finish_reason, choice.stop_reason)
