"""Makes the prompt of a chat call: the ids of the turn that it continues, and the rest rendered."""

import asyncio
from array import array
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

import msgspec

from gateway import Worker
from gateway_plugins.trace_capture.tito.bridges import Bridges
from gateway_plugins.trace_capture.tito.engine import Refused, Rendered, render
from gateway_plugins.trace_capture.tito.history import History, history_of
from gateway_plugins.trace_capture.tito.suffix import STAND_INS, common_suffix, stand_in, suffix_of
from gateway_plugins.trace_capture.tito.turns import Turn, Turns

Forked = Literal["changed_history", "end_of_turn_unknown", "media"]
"""Why the ids of the latest turn are not in a prompt: the messages sent back are not those of any
turn; the template does not show where the turn ends; or the conversation has pictures or sound."""

MAX_CLOSES = 1_000
"""Maximum ends of turns that are remembered."""

ReadTurns = Callable[[str], Awaitable[list[Turn]]]
"""Reads the turns of a session that are in the store."""


class Prompt(msgspec.Struct, frozen=True):
    """A prompt, the rendered request that has the other fields, and what the trace tells of it.

    `continued` is the turn whose ids it begins with; `bridged`: the package renderers rendered what
    follows that turn.
    """

    token_ids: list[int]
    rendered: Rendered
    continued: Turn | None = None
    forked: Forked | None = None
    bridged: bool = False

    def facts(self) -> dict[str, Any]:
        """Return what the trace's metadata tell."""
        turn = self.continued
        found: dict[str, Any] = {"prompt": "rendered" if turn is None else "continued"}
        if turn is not None:
            found |= {"trace_id": turn.trace_id}
            found |= {"kept_tokens": (len(turn.prompt) + len(turn.sampled)) // 4}
        if self.bridged:
            found |= {"rendered_by": "renderers"}
        return found if self.forked is None else {**found, "forked": self.forked}


class Prompts:
    """Makes prompts; remembers the ends of turns that each template writes."""

    def __init__(self, turns: Turns, read_turns: ReadTurns, bridges: Bridges) -> None:
        self.bridges = bridges
        self._turns = turns
        self._read_turns = read_turns
        self._closes: dict[tuple[str, bytes, bool], list[int]] = {}

    async def make(self, worker: Worker, session_id: str, request: Mapping[str, Any]) -> Prompt:
        """Raises Unable and Refused, in the words of the engine."""
        history = history_of(request)
        found = await self._find(session_id, history)
        if found is None:
            rendered = await render(worker, request)
            forked = bool(history.answers()) and self._turns.has(session_id)
            why: Forked | None = "changed_history" if forked else None
            return Prompt(rendered.token_ids, rendered, forked=why)
        place, turn = found
        foreign = any(later > place for later in history.answers())
        made = await self._bridge(worker, request, place, turn)
        if made is None:
            made = await self._continue(worker, request, place, turn)
        if made.forked is None and foreign:
            made = msgspec.structs.replace(made, forked="changed_history")
        return made

    async def _find(self, session_id: str, history: History) -> tuple[int, Turn] | None:
        """Find the latest turn of the history: in memory, and in the store if that may know more.

        Usually the last answer of the history is the turn before.
        """
        answers = history.answers()
        if not answers:
            return None
        found = self._turns.longest(session_id, history)
        if found is not None and found[0] == answers[0]:
            return found
        stored = await self._read_turns(session_id)
        for turn in stored:
            self._turns.add(session_id, turn)
        return self._turns.longest(session_id, history, stored)

    async def _bridge(
        self, worker: Worker, request: Mapping[str, Any], place: int, turn: Turn
    ) -> Prompt | None:
        """Have the package renderers make the prompt; None: it cannot, or the engine disagrees.

        The conversation as the engine renders it has other tokens for the turn, and the same ones
        after it.
        """
        rest = await self.bridges.following(turn, request, place)
        if not rest:
            return None
        rendered = await render(worker, request)
        if rendered.has_media or rendered.token_ids[-len(rest) :] != rest:
            return None
        return Prompt([*_kept(turn), *rest], rendered, turn, bridged=True)

    async def _continue(
        self, worker: Worker, request: Mapping[str, Any], place: int, turn: Turn
    ) -> Prompt:
        try:
            one, other = await self._with_stand_ins(worker, request, place)
            close = await self._close(worker, request, turn.end.calls)
        except Refused:  # the template takes no such stand-in; or the request is wrong itself
            return await _rendered(worker, request, "end_of_turn_unknown")
        if one.has_media:
            return await _rendered(worker, request, "media")
        rest = suffix_of(turn.end, close, one.token_ids, other.token_ids)
        if rest is None:
            return await _rendered(worker, request, "end_of_turn_unknown")
        return Prompt([*_kept(turn), *rest], one, turn)

    async def _with_stand_ins(
        self, worker: Worker, request: Mapping[str, Any], place: int
    ) -> tuple[Rendered, Rendered]:
        messages = request["messages"]
        made = [
            {**request, "messages": [*messages[:place], own, *messages[place + 1 :]]}
            for own in (stand_in(text, messages[place]) for text in STAND_INS)
        ]
        one, other = await asyncio.gather(render(worker, made[0]), render(worker, made[1]))
        return one, other

    async def _close(self, worker: Worker, request: Mapping[str, Any], calls: bool) -> list[int]:
        """Return the ids that the template writes after a turn; asked once for each template."""
        bare = {name: value for name, value in request.items() if name != "messages"}
        key = (worker.url, history_of({**bare, "messages": [{}]}).digests[0], calls)
        known = self._closes.get(key)
        if known is None:
            if len(self._closes) >= MAX_CLOSES:
                self._closes.clear()
            known = self._closes[key] = await _ask_close(worker, bare, calls)
        return known


def _kept(turn: Turn) -> list[int]:
    kept = array("i", turn.prompt)
    kept.frombytes(turn.sampled)
    return kept.tolist()


async def _ask_close(worker: Worker, request: Mapping[str, Any], calls: bool) -> list[int]:
    like: dict[str, Any] = {"tool_calls": [{}]} if calls else {}
    asks = [
        {
            **request,
            "messages": [{"role": "user", "content": "Hi"}, stand_in(text, like)],
            "add_generation_prompt": False,
        }
        for text in STAND_INS
    ]
    one, other = await asyncio.gather(render(worker, asks[0]), render(worker, asks[1]))
    return common_suffix(one.token_ids, other.token_ids)


async def _rendered(worker: Worker, request: Mapping[str, Any], forked: Forked) -> Prompt:
    rendered = await render(worker, request)
    return Prompt(rendered.token_ids, rendered, forked=forked)
