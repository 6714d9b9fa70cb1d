"""Leads a model without sense through a conversation with an agent's own tools."""

from collections.abc import Mapping
from typing import Any

import msgspec
from support.agents.conversation import Step, arguments_of, shell_of

from gateway import Call, hookimpl
from gateway.simulator.input.requests import Tool

CHAT = "/v1/chat/completions"
LONGEST = 64
"""Tokens of an answer that belongs to no turn, such as a title."""


class Leading:
    """A plugin that has the engine's own grammar hold the model to a script, turn by turn.

    The model samples every token; where the grammar leaves a choice, such as how a text is cut
    into tokens, at random. What belongs to no turn is rubbish, and short.
    """

    class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        steps: list[Step]

    def __init__(self, config: Config) -> None:
        self._steps = config.steps

    @hookimpl
    async def prepare(self, call: Call) -> None:
        if call.path != CHAT:
            return
        for key, value in self._asked(await call.json()).items():
            await call.set(key, value)

    def _asked(self, request: Mapping[str, Any]) -> dict[str, object]:
        tools = [msgspec.convert(tool, Tool) for tool in request.get("tools") or ()]
        shell = shell_of(tools)
        if shell is None:
            return {"max_tokens": LONGEST, "max_completion_tokens": LONGEST}
        played = sum(message["role"] == "tool" for message in request["messages"])
        step = self._steps[min(played, len(self._steps) - 1)]
        if step.command is None:
            return {"tool_choice": "none", "structured_outputs": {"choice": [step.text]}}
        name = shell.function.name
        arguments = _exactly(arguments_of(shell, step.command))
        return {
            "tools": [_narrowed(tool, name, arguments) for tool in request["tools"]],
            "tool_choice": {"type": "function", "function": {"name": name}},
        }


def _narrowed(tool: Mapping[str, Any], name: str, arguments: object) -> Mapping[str, Any]:
    function = tool["function"]
    if function["name"] != name:
        return tool
    # Without `strict`, vLLM's grammar for calls is any JSON.
    return {**tool, "function": {**function, "parameters": arguments, "strict": True}}


def _exactly(arguments: Mapping[str, object]) -> dict[str, object]:
    """The schema that only these arguments fit."""
    return {
        "type": "object",
        "properties": {name: {"enum": [value]} for name, value in arguments.items()},
        "required": list(arguments),
        "additionalProperties": False,
    }
