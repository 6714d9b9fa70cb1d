"""What a model says to an agent, turn by turn, and how it calls the agent's own tools.

The turn is found in the request: as many steps have been played as it has results of tools. So an
agent may repeat a call, or ask for a title between two turns, and the script stays in step.
"""

import json
from collections.abc import Sequence

import msgspec

from gateway.simulator.api.toolcalls import written
from gateway.simulator.input.requests import ChatRequest, Tool

SHELLS = ("Bash", "bash", "exec_command", "run_shell_command", "run_commands")
"""Names that agents have for the tool that runs a command."""

COMMANDS = ("command", "cmd", "commands")
"""Names of that tool's argument."""

TITLE = "A file is written"
"""What is said to a request without such a tool, which is no turn of the conversation."""


class Step(msgspec.Struct, frozen=True):
    """One turn of the model: what it says, then the command that it wants to be run, if any."""

    text: str
    command: str | None = None
    thought: str = ""


def said(steps: Sequence[Step], request: ChatRequest, *, thinks: bool) -> str:
    """The text that the model writes; all that it `thinks` stands before."""
    shell = shell_of(request.tools or [])
    if shell is None:
        return f"</think>\n\n{TITLE}" if thinks else TITLE
    played = sum(message.role == "tool" for message in request.messages)
    step = steps[min(played, len(steps) - 1)]
    thoughts = f"<think>\n{step.thought}\n</think>\n\n" if thinks else ""
    return f"{thoughts}{step.text}{_call(shell, step)}"


def _call(shell: Tool, step: Step) -> str:
    if step.command is None:
        return ""
    return "\n" + written(shell.function.name, json.dumps(arguments_of(shell, step.command)))


def shell_of(tools: Sequence[Tool]) -> Tool | None:
    return next((tool for tool in tools if tool.function.name in SHELLS), None)


def arguments_of(shell: Tool, command: str) -> dict[str, object]:
    """The arguments by which that tool runs `command`: all that its schema requires."""
    schema = msgspec.convert(shell.function.parameters or {}, Schema)
    [name] = [name for name in COMMANDS if name in schema.properties]
    needed = {other: schema.properties[other].type for other in schema.required}
    filled: dict[str, object] = {
        other: False if kind == "boolean" else "as asked" for other, kind in needed.items()
    }
    listed = schema.properties[name].type == "array"
    return {**filled, name: [command] if listed else command}


class Property(msgspec.Struct, frozen=True):
    type: str | list[str] = "string"


class Schema(msgspec.Struct, frozen=True):
    properties: dict[str, Property] = {}
    required: list[str] = []
