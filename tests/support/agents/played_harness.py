"""Recorded calls of harnesses, and a worker whose model says what the harness was told then.

The calls are from runs of unmodified harnesses against a stub. Texts of more than 200 characters
were not recorded: they are the beginning of their hash in brackets, after their own first words if
these tell what they are. In four calls for which a harness put earlier answers into such a text,
these answers follow it. Reasoning is left out, and so are all tools but one.
"""

from random import Random
from typing import Any

import msgspec
from msgspec.structs import replace
from support.paths import SUPPORT

from gateway.simulator import SimulatorConfig
from gateway.simulator.api.chat import prepare_chat
from gateway.simulator.api.toolcalls import written
from gateway.simulator.breaking import Conditions
from gateway.simulator.engine.sequences import Delta, merged
from gateway.simulator.input.requests import ChatRequest
from gateway.simulator.preparing import Plan, generations
from gateway.testing import DONE, ScriptedConnection, answer_of

CONFIG = SimulatorConfig(max_model_len=1 << 20)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Said(msgspec.Struct, frozen=True):
    """The recorded response: its status, its text, and the tools called, as (name, arguments).

    `cut`: the stream broke off after that.
    """

    status: int = 200
    text: str = ""
    calls: list[tuple[str, str]] = []
    cut: bool = False

    @property
    def sampled(self) -> str:
        """What the model writes."""
        return self.text + "".join("\n" + written(*call) for call in self.calls)


class PlayedCall(msgspec.Struct, frozen=True):
    """A recorded call, with the headers and fields that tell who sent it."""

    name: str
    path: str
    headers: list[tuple[str, str]]
    body: dict[str, Any]
    said: Said

    @property
    def scenario(self) -> str:
        return self.name.rpartition("/")[0]


def played_calls() -> list[PlayedCall]:
    """Return the recorded calls of all scenarios, in their order."""
    lines = (SUPPORT / "data" / "harness_runs.jsonl").read_bytes().splitlines()
    return [msgspec.json.decode(line, type=PlayedCall) for line in lines]


class PlayedModel:
    """`script` is for a ScriptedWorker; `next` is what it says to the next request."""

    def __init__(self) -> None:
        self.next = Said()

    async def script(self, connection: ScriptedConnection) -> None:
        going_on = True
        while going_on:
            _, _, body = (await connection.read_request()).partition(b"\r\n\r\n")
            if self.next.status == 200:
                going_on = not self.next.cut
                await _answer(connection, body, self.next)
            else:
                refusal = b'{"error": {"message": "Not now."}}'
                await connection.write(answer_of(refusal, status=f"{self.next.status} Refused"))


async def _answer(connection: ScriptedConnection, body: bytes, said: Said) -> None:
    prepared = prepare_chat(body, None, CONFIG)
    deltas, answer = _sampled(prepared.plan, said), prepared.answer
    assert isinstance(prepared.plan.request, ChatRequest)
    if not prepared.plan.request.stream:
        await connection.write(answer_of(answer.whole([merged(deltas)])))
        return
    events = [*answer.opening(), *map(answer.event, deltas[:-1])]
    if not said.cut:
        events += [answer.event(deltas[-1]), answer.closing()]
    await connection.write(HEAD)
    for event in filter(None, events):
        await connection.write(_chunk(b"data: %b\n\n" % event))
    if not said.cut:
        await connection.write(_chunk(DONE) + b"0\r\n\r\n")


def _sampled(plan: Plan, said: Said) -> list[Delta]:
    scripted = replace(plan, script=lambda chance: said.sampled, thinks=False)
    [sequence] = generations(scripted, CONFIG, Conditions(), Random(1))
    deltas: list[Delta] = []
    while not sequence.finished:
        deltas.append(sequence.step())
    return deltas


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
