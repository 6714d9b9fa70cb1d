"""A worker that speaks chat as vLLM does; its model plays a script with an agent's tools."""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Literal

import msgspec
from msgspec.structs import replace
from support.agents.conversation import Step, said

from gateway.simulator import SimulatorConfig
from gateway.simulator.api.chat import prepare_chat
from gateway.simulator.breaking import Conditions
from gateway.simulator.engine.sequences import Delta, merged
from gateway.simulator.generation import Answer, Prepared
from gateway.simulator.input.refusals import Refused, overloaded
from gateway.simulator.input.requests import ChatRequest
from gateway.simulator.preparing import check_length, generations
from gateway.testing import DONE, ScriptedConnection, answer_of

LONGEST = 1 << 20
"""Tokens of the context: more than agents send."""

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)

Fault = Literal["limited", "busy", "too long", "cut", "error event", "unfinished", "aborted"]
"""`limited` is a 429, `busy` a 503, `too long` vLLM's 400 for a long prompt. The others break a
stream in its middle: the connection ends, an error comes, its end has no finish reason, or says
that the engine has aborted the generation. Plain answers are aborted, too."""


class Sampled(msgspec.Struct, frozen=True):
    """What the engine has sampled for one call: the tap to compare traces with."""

    prompt_token_ids: list[int]
    token_ids: list[int]


class ScriptedModel:
    """`script` is for a ScriptedWorker; `sampled` has the tokens of all whole answers, in order.

    `asked` has the requests of all calls. `faults` are by the number of the call, from 1.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        *,
        thinks: bool = False,
        faults: Mapping[int, Fault] | None = None,
        model: str = "sim",
    ) -> None:
        self.sampled: list[Sampled] = []
        self.asked: list[ChatRequest] = []
        self._steps = steps
        self._thinks = thinks
        self._faults = faults or {}
        self._config = SimulatorConfig(model=model, max_model_len=LONGEST, reasoning=thinks)

    async def script(self, connection: ScriptedConnection) -> None:
        going_on = True
        while going_on:
            head, _, body = (await connection.read_request()).partition(b"\r\n\r\n")
            if not head.startswith(b"POST /v1/chat/completions "):
                await connection.write(answer_of(b'{"detail":"Not Found"}', status="404 Not Found"))
                continue
            try:
                going_on = await self._answer(connection, prepare_chat(body, None, self._config))
            except Refused as refused:
                await connection.write(_refusal(refused))

    async def _answer(self, connection: ScriptedConnection, prepared: Prepared) -> bool:
        """Returns whether the connection is to stay."""
        request = prepared.plan.request
        assert isinstance(request, ChatRequest)
        self.asked.append(request)
        fault = self._faults.get(len(self.asked))
        _refuse(fault)
        deltas = self._sample(prepared, request)
        if fault is None:
            self.sampled.append(_sampled(prepared, deltas))
        if not request.stream:
            whole = merged(_aborted(deltas) if fault == "aborted" else deltas)
            await connection.write(answer_of(prepared.answer.whole([whole])))
            return True
        await _stream(connection, _broken(prepared.answer, deltas, fault))
        if fault != "cut":
            await connection.write(_chunk(DONE) + b"0\r\n\r\n")
        return fault != "cut"

    def _sample(self, prepared: Prepared, request: ChatRequest) -> list[Delta]:
        text = said(self._steps, request, thinks=self._thinks)
        plan = replace(prepared.plan, script=lambda chance: text, thinks=False)
        [sequence] = generations(plan, self._config, Conditions(), Random(1))
        deltas: list[Delta] = []
        while not sequence.finished:
            deltas.append(sequence.step())
        return deltas


def _refuse(fault: Fault | None) -> None:
    if fault == "limited":
        raise Refused(429, "Slowly.", "rate_limit_error")
    if fault == "busy":
        raise overloaded()
    if fault == "too long":
        check_length(LONGEST + 1, SimulatorConfig(max_model_len=LONGEST), at_least=True)


def _refusal(refused: Refused) -> bytes:
    answer = answer_of(refused.body(), status=f"{refused.status} Refused")
    return answer.replace(b"\r\n\r\n", b"\r\nretry-after: 1\r\n\r\n", 1)


def _sampled(prepared: Prepared, deltas: Sequence[Delta]) -> Sampled:
    ids = [token.id for delta in deltas for token in delta.tokens]
    return Sampled(prepared.plan.prompts[0], ids)


def _events(answer: Answer, deltas: list[Delta]) -> list[bytes]:
    found = [*answer.opening(), *map(answer.event, deltas), answer.closing()]
    return [event for event in found if event is not None]


def _broken(answer: Answer, deltas: list[Delta], fault: Fault | None) -> list[bytes]:
    if fault is None:
        return _events(answer, deltas)
    if fault == "aborted":
        return _events(answer, _aborted(deltas))
    events = _events(answer, _half(deltas))[:-1]
    error = {"message": "The engine has died.", "type": "InternalServerError", "code": 500}
    return [*events, msgspec.json.encode({"error": error})] if fault == "error event" else events


def _half(deltas: Sequence[Delta]) -> list[Delta]:
    return list(deltas[: len(deltas) // 2])


def _aborted(deltas: Sequence[Delta]) -> list[Delta]:
    return [*_half(deltas), Delta(0, "", [], "abort")]


async def _stream(connection: ScriptedConnection, events: Sequence[bytes]) -> None:
    await connection.write(HEAD)
    for event in events:
        await connection.write(_chunk(b"data: %b\n\n" % event))


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
