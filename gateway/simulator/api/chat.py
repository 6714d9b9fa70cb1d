"""`/v1/chat/completions`: parses and checks a request as the engine does."""

from random import Random

import msgspec

from gateway.simulator.api.answers import header
from gateway.simulator.api.chat_answer import ChatAnswer
from gateway.simulator.api.template import chat_ids, unclosed
from gateway.simulator.api.toolcalls import planned
from gateway.simulator.config import SimulatorConfig
from gateway.simulator.generation import Prepared
from gateway.simulator.input.refusals import bad_request, missing, no_reasoning, parse
from gateway.simulator.input.requests import ChatRequest, ContentPart, Message, NamedTool
from gateway.simulator.preparing import Plan, check_length, check_request, structured, truncated

_MEDIA = frozenset({"image_url", "input_audio", "audio_url", "video_url"})


def prepare_chat(
    body: bytes, given_id: str | None, config: SimulatorConfig, *, name: str | None = None
) -> Prepared:
    """Parse and check `body`, and plan its response; raises Refused.

    `name` is the id of the response if it is not chat's own.
    """
    request = parse(body, ChatRequest)
    _check_messages(request.messages)
    _check_logprobs(request)
    _check_tool_choice(request)
    check_request(request, config)
    _check_content(request, config)
    if not request.messages:
        raise bad_request(
            "Cannot apply chat template to an empty conversation. Provide at least one message."
        )
    prompt = _prompt(request, config)

    def script(chance: Random) -> str | None:
        return structured(request, chance) or planned(request, chance)

    longest = request.max_completion_tokens
    asked = request.max_tokens if longest is None else longest
    logprobs = (request.top_logprobs or 0) if request.logprobs else None
    thinks = config.reasoning and not request.continue_final_message
    plan = Plan(request, [prompt], asked, logprobs, script, thinks)
    head = header("chatcmpl-", request, given_id, config.model)
    head = head if name is None else msgspec.structs.replace(head, id=name)
    answer = ChatAnswer(request, prompt, head, reasoning=config.reasoning)
    return Prepared(plan, answer)


def _prompt(request: ChatRequest, config: SimulatorConfig) -> list[int]:
    tools = request.tools if request.tool_choice != "none" else None
    ids = chat_ids(request.messages, tools or (), open_answer=request.add_generation_prompt)
    if request.continue_final_message:
        ids = unclosed(ids)
    ids = truncated(ids, request)
    check_length(min(len(ids), config.max_model_len + 1), config, at_least=True)
    return ids


def _check_messages(messages: list[Message]) -> None:
    for place, message in enumerate(messages):
        if message.role is None:
            fields = {
                name: value
                for name in message.__struct_fields__
                if (value := getattr(message, name)) is not None
            }
            # The engine lists every message type that does not match; the first is enough here.
            where = f"body.messages.{place}.ChatCompletionDeveloperMessageParam.role"
            raise missing(where, fields)


def _check_content(request: ChatRequest, config: SimulatorConfig) -> None:
    parts = [part for one in request.messages for part in _parts(one) if part.type in _MEDIA]
    if parts:
        raise bad_request(f"{config.model} is not a multimodal model")
    if request.continue_final_message and request.add_generation_prompt:
        says = "Cannot set both `continue_final_message` and `add_generation_prompt` to True."
        raise bad_request(says)
    if request.thinking_token_budget is not None and not config.reasoning:
        raise no_reasoning()


def _parts(message: Message) -> list[ContentPart]:
    content = message.content if isinstance(message.content, list) else []
    return [part for part in content if isinstance(part, ContentPart)]


def _check_logprobs(request: ChatRequest) -> None:
    if request.top_logprobs and not request.logprobs:
        raise bad_request(
            "when using `top_logprobs`, `logprobs` must be set to true.", "top_logprobs"
        )


def _check_tool_choice(request: ChatRequest) -> None:
    choice = request.tool_choice
    if choice is None or choice in ("none", "auto"):
        return
    if not request.tools:
        raise bad_request("When using `tool_choice`, `tools` must be set.", "tool_choice")
    names = [tool.function.name for tool in request.tools]
    if isinstance(choice, NamedTool) and choice.function.name not in names:
        raise bad_request(
            "The tool specified in `tool_choice` does not match any of the specified `tools`",
            "tool_choice",
        )
