"""A worker that speaks chat as vLLM does, with a model that plays a script with an agent's tools.

The turn is found in the request: as many steps have been played as it has results of tools. So an
agent may repeat a call, or ask for a title between two turns, and the script stays in step.
"""

import json
from collections.abc import Sequence
from random import Random

import msgspec
from msgspec.structs import replace

from gateway.simulator import SimulatorConfig
from gateway.simulator.api.chat import prepare_chat
from gateway.simulator.api.toolcalls import written
from gateway.simulator.breaking import Conditions
from gateway.simulator.engine.sequences import Delta, merged
from gateway.simulator.generation import Answer, Prepared
from gateway.simulator.input.refusals import Refused
from gateway.simulator.input.requests import ChatRequest, Tool
from gateway.simulator.preparing import generations
from gateway.testing import DONE, ScriptedConnection, answer_of

CONFIG = SimulatorConfig(max_model_len=1 << 20)
HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
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


class Sampled(msgspec.Struct, frozen=True):
    """What the engine has sampled for one call: the tap to compare traces with."""

    prompt_token_ids: list[int]
    token_ids: list[int]


class ScriptedModel:
    """`script` is for a ScriptedWorker; `sampled` has the tokens of all calls, in order.

    `asked` has the requests of all calls.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        self.sampled: list[Sampled] = []
        self.asked: list[ChatRequest] = []
        self._steps = steps

    async def script(self, connection: ScriptedConnection) -> None:
        while True:
            head, _, body = (await connection.read_request()).partition(b"\r\n\r\n")
            if not head.startswith(b"POST /v1/chat/completions "):
                await connection.write(answer_of(b'{"detail":"Not Found"}', status="404 Not Found"))
                continue
            try:
                prepared = prepare_chat(body, None, CONFIG)
            except Refused as refused:
                await connection.write(answer_of(refused.body(), status=f"{refused.status} No"))
                continue
            await self._answer(connection, prepared)

    async def _answer(self, connection: ScriptedConnection, prepared: Prepared) -> None:
        request = prepared.plan.request
        assert isinstance(request, ChatRequest)
        deltas = self._sample(prepared, request)
        if request.stream:
            await _stream(connection, _events(prepared.answer, deltas))
        else:
            await connection.write(answer_of(prepared.answer.whole([merged(deltas)])))

    def _sample(self, prepared: Prepared, request: ChatRequest) -> list[Delta]:
        text = self._text(request)
        plan = replace(prepared.plan, script=lambda chance: text)
        [sequence] = generations(plan, CONFIG, Conditions(), Random(1))
        deltas: list[Delta] = []
        while not sequence.finished:
            deltas.append(sequence.step())
        ids = [token.id for delta in deltas for token in delta.tokens]
        self.sampled.append(Sampled(plan.prompts[0], ids))
        self.asked.append(request)
        return deltas

    def _text(self, request: ChatRequest) -> str:
        shell = shell_of(request.tools or [])
        if shell is None:
            return TITLE
        played = sum(message.role == "tool" for message in request.messages)
        step = self._steps[min(played, len(self._steps) - 1)]
        if step.command is None:
            return step.text
        arguments = json.dumps(arguments_of(shell, step.command))
        return f"{step.text}\n{written(shell.function.name, arguments)}"


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


async def _stream(connection: ScriptedConnection, events: Sequence[bytes]) -> None:
    await connection.write(HEAD)
    for event in events:
        await connection.write(_chunk(b"data: %b\n\n" % event))
    await connection.write(_chunk(DONE) + b"0\r\n\r\n")


def _events(answer: Answer, deltas: Sequence[Delta]) -> list[bytes]:
    found = [*answer.opening(), *map(answer.event, deltas), answer.closing()]
    return [event for event in found if event is not None]


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
