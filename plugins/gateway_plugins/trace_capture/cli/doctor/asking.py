"""Makes the calls, reads their traces back, and deletes the sessions."""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from gateway import ConfigError, Trace
from gateway_plugins.trace_capture.cli.doctor import advice
from gateway_plugins.trace_capture.cli.doctor.advice import advice_on_difference
from gateway_plugins.trace_capture.cli.doctor.doors import Answer, Door
from gateway_plugins.trace_capture.cli.doctor.judging import Asked, judge
from gateway_plugins.trace_capture.cli.doctor.kinds import Kind, next_messages, reasons
from gateway_plugins.trace_capture.cli.doctor.results import Check, Difference, Problem

AROUND = 8
"""Tokens before a difference, and from it on, whose text is shown."""

MAX_SAID = 64 * 1024
"""Bytes of the response to a call that are kept, for the error in it: the trace has the rest."""

MAX_TEXT = 200
"""Characters of a text that an engine makes of tokens."""

_TRACES = msgspec.json.Decoder(list[Trace])


class Fields(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked: the `kinds`, fields `added` to chats, and the `seconds` of an answer.

    `key` is the caller's.
    """

    kinds: Sequence[Kind]
    added: Mapping[str, Any]
    seconds: float
    key: str | None = None


class Doctor:
    """Asks one gateway for one model. `worker` is the one that is meant, "" for whoever answers."""

    def __init__(self, door: Door, model: str, names: Sequence[str], fields: Fields) -> None:
        self._door = door
        self._model = model
        self._names = names
        self._fields = fields
        self._chats = self._thinks = False
        self._prompt: list[int] = []

    async def check_all(self, worker: str, names: Sequence[str] | None = None) -> list[Check]:
        """Make the calls of these kinds in order, of all if None.

        Raises ConfigError if traces cannot be read.
        """
        found: list[Check] = []
        for kind in self._fields.kinds:
            if (names is None or kind.name in names) and self._is_of_use(kind):
                found += await self._check(kind, worker)
        return found

    def _is_of_use(self, kind: Kind) -> bool:
        """Whether the chats before have shown what it needs: thoughts, or the ids of a prompt."""
        if kind.api == "generate":
            return bool(self._prompt)
        return self._thinks or not kind.thinks

    async def _check(self, kind: Kind, worker: str) -> list[Check]:
        session = f"doctor-{secrets.token_hex(8)}"
        asked = Asked(kind, self._model)
        try:
            await self._converse(session, asked)
        finally:
            await self._door.ask("DELETE", f"/sessions/{session}")
        self._learn(asked)
        checks = judge(asked, worker, self._names, chats=self._chats)
        return [await self._explained(check, asked) for check in checks]

    async def _explained(self, check: Check, asked: Asked) -> Check:
        problems = [await self._with_texts(one, asked) for one in check.problems]
        return replace(check, problems=tuple(problems))

    async def _converse(self, session: str, asked: Asked) -> None:
        kind = asked.kind
        body = {"model": self._model, **kind.body}
        if kind.api == "chat":
            body |= self._fields.added
        elif kind.api == "generate":
            body["token_ids"] = self._prompt
        for _ in range(kind.turns):
            path = f"/sessions/{session}{kind.path}"
            answer = await self._door.ask(
                "POST", path, body, seconds=self._fields.seconds, most=MAX_SAID
            )
            asked.answers.append(answer)
            asked.traces = await self._traces(session)
            if answer.status != 200 or len(asked.traces) < len(asked.answers):
                return
            if kind.turns > 1:
                more = next_messages(asked.traces[-1].response_message)
                body = {**body, "messages": [*body["messages"], *more]}

    async def _traces(self, session: str) -> list[Trace]:
        path = f"/sessions/{session}/traces"
        answer = await self._door.ask("GET", path)
        if answer.status != 200:
            raise ConfigError(_cannot_read(path, answer))
        try:
            return _TRACES.decode(answer.body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            why = "these are no traces of this version"
            raise ConfigError(f"GET {path}: {why}") from None

    def _learn(self, asked: Asked) -> None:
        if asked.kind.api == "chat" and asked.answers[-1].status == 200 and asked.traces:
            self._chats = True
            self._prompt = self._prompt or asked.traces[0].prompt_token_ids
        if any(reasons(trace.response_message) for trace in asked.traces):
            self._thinks = True

    async def _with_texts(self, problem: Problem, asked: Asked) -> Problem:
        left = problem.difference
        if left is None:
            return problem
        parent, child = asked.traces[left.turn - 2 : left.turn]
        sequence = [*parent.prompt_token_ids, *parent.completion_token_ids]
        told: Difference = replace(
            left,
            expected_text=left.expected_text or await self._text_of(left.expected_id),
            found_text=left.found_text or await self._text_of(left.found_id),
            text_before=await self._text(sequence[max(left.at - AROUND, 0) : left.at]),
            expected_after=await self._text(sequence[left.at : left.at + AROUND]),
            found_after=await self._text(child.prompt_token_ids[left.at : left.at + AROUND]),
        )
        return replace(problem, difference=told, what_to_do=advice_on_difference(told))

    async def _text_of(self, token: int | None) -> str | None:
        return None if token is None else await self._text([token])

    async def _text(self, ids: Sequence[int]) -> str | None:
        """Return the text of tokens, None if the engine does not detokenise."""
        if not ids:
            return None
        body = {"model": self._model, "tokens": list(ids)}
        answer = await self._door.ask("POST", "/detokenize", body, most=MAX_SAID)
        try:
            return str(msgspec.json.decode(answer.body)["prompt"])[:MAX_TEXT]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError):
            return None


def _cannot_read(path: str, answer: Answer) -> str:
    why = f"GET {path}: {answer.status}: {answer.error or 'no message'}"
    if answer.status in (401, 403):
        return f"{why}; give a key with the scope `sessions`"
    return f"{why}. {advice.NOT_CAPTURED}"
