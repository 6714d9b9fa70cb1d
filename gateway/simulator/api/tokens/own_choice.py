"""What the model writes by its own choice, read from the ids of its prompt.

A real model knows of tools by its prompt alone. So does the simulated one if it is given ids: a
rendered prompt gets the tool calls that the dialect's own call gets.
"""

import json
from random import Random

import msgspec

from gateway.simulator.api.template import TOOLS_CLOSE, TOOLS_OPEN, turns
from gateway.simulator.api.toolcalls import planned
from gateway.simulator.input.requests import ChatRequest, Function, Message, Tool
from gateway.simulator.input.tokens import GenerateRequest


class _Tag(msgspec.Struct, frozen=True):
    begin: str


class _Format(msgspec.Struct, frozen=True):
    tags: list[_Tag] = []


class _StructuralTag(msgspec.Struct, frozen=True):
    format: _Format


def chosen_text(asked: GenerateRequest, chance: Random) -> str | None:
    """Return the tool calls that the model makes, None if it replies in words."""
    said = turns(asked.token_ids)
    if len(said) < 2 or said[-1][1]:
        return None  # it is no chat, or the last turn has begun
    tools = [tool for role, text in said if role == "system" for tool in _described(text)]
    forced = _forced(asked)
    if forced:
        known = {tool.function.name: tool for tool in tools}
        tools = [known.get(name) or Tool(Function(name)) for name in forced]
    # The last turn is the model's own, which the template has opened.
    asker = said[-2][0]
    request = ChatRequest(
        messages=[Message(role=asker)],
        tools=tools,
        tool_choice="required" if forced else "auto",
    )
    return planned(request, chance)


def _described(system: str) -> list[Tool]:
    """Return the tools that a system's turn describes; those that it distorts are unknown."""
    _, opened, rest = system.partition(TOOLS_OPEN)
    if not opened:
        return []
    lines = rest.partition(TOOLS_CLOSE)[0].splitlines()
    try:
        return [msgspec.json.decode(line, type=Tool) for line in lines]
    except msgspec.DecodeError:
        return []


def _forced(asked: GenerateRequest) -> list[str]:
    """Return the names of the tools one of which has to be called, none if none has to be."""
    outputs = asked.sampling_params.structured_outputs
    if outputs is None or outputs.structural_tag is None:
        return []
    try:
        tags = msgspec.json.decode(outputs.structural_tag, type=_StructuralTag).format.tags
        begun = [tag.begin.partition('{"name": ')[2].partition(",")[0] for tag in tags]
        names = [json.loads(name) for name in begun]
    except (msgspec.DecodeError, ValueError):
        return []
    return list(dict.fromkeys(name for name in names if isinstance(name, str)))
