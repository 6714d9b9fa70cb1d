"""Tool calls: how the model writes them, and how the server parses them.

The format is that of Qwen and Hermes: `<tool_call>`, a JSON object with name and arguments,
`</tool_call>`.
"""

import json
import re
from random import Random
from typing import Literal

import msgspec

from gateway.simulator.engine.tokens import overlap
from gateway.simulator.input.requests import ChatRequest, NamedTool, Tool
from gateway.simulator.input.schema import instance

OPEN = "<tool_call>"
CLOSE = "}\n</tool_call>"
_NAME = re.compile(r'\s*\{"name":\s*("(?:[^"\\]|\\.)*")')
_GAP = re.compile(r',\s*"arguments":\s*(?=\S)')


class Started(msgspec.Struct, frozen=True):
    """Call `index` of this response has begun; its arguments follow in fragments."""

    index: int
    name: str


class Fragment(msgspec.Struct, frozen=True):
    """The next piece of the JSON text of call `index`'s arguments."""

    index: int
    text: str


ToolEvent = Started | Fragment


def written(name: str, arguments: str) -> str:
    """Return a tool call as the model writes it; `arguments` is JSON text."""
    return f'{OPEN}\n{{"name": {json.dumps(name)}, "arguments": {arguments}{CLOSE}'


def planned(request: ChatRequest, chance: Random) -> str | None:
    """Return the tool calls that the model makes for `request`, None if it replies in words.

    If the tool choice is left to the model ("auto"), it calls a tool after a user's message and
    replies in words otherwise, as after a tool's result, so that an agent's loop ends.
    """
    tools = request.tools or []
    match request.tool_choice:
        case NamedTool(function):
            called = [tool for tool in tools if tool.function.name == function.name][:1]
        case "none":
            called = []
        case "required":
            called = _some(tools, request, chance)
        case _:
            asked = request.messages[-1].role == "user"
            called = _some(tools, request, chance) if asked else []
    calls = [
        written(
            tool.function.name, instance(tool.function.parameters or {"type": "object"}, chance)
        )
        for tool in called
    ]
    return "\n".join(calls) or None


def _some(tools: list[Tool], request: ChatRequest, chance: Random) -> list[Tool]:
    """Return one tool, or sometimes two at once if calls may be parallel and there are several."""
    if not tools:
        return []
    together = request.parallel_tool_calls and chance.random() < 0.3
    return chance.sample(tools, min(len(tools), 2 if together else 1))


class ToolParser:
    """Finds tool calls in text as it comes, and holds back text that may still become one."""

    def __init__(self) -> None:
        self._held = ""
        self._calls = 0
        self._in: Literal["text", "name", "gap", "arguments"] = "text"

    @property
    def whole(self) -> bool:
        """Whether at least one call was found and none is left open."""
        return self._calls > 0 and self._in == "text"

    def feed(self, text: str, last: bool = False) -> tuple[str, list[ToolEvent]]:
        """Return the content and the tool events that `text` adds.

        `last` releases the text that is held back.
        """
        self._held += text
        said: list[str] = []
        events: list[ToolEvent] = []
        while self._advance(said, events, last):
            pass
        return "".join(said), events

    def _advance(self, said: list[str], events: list[ToolEvent], last: bool) -> bool:
        """Continue with the next part of the text; False if it has not come yet."""
        match self._in:
            case "text":
                before, opened = self._until(OPEN, last)
                # White space between two calls is part of neither.
                if before.strip() or not self._calls:
                    said.append(before)
                self._in = "name" if opened else "text"
                return opened
            case "name":
                name = self._take(_NAME)
                if name is not None:
                    events.append(Started(self._calls, json.loads(name[1])))
                    self._in = "gap"
                return name is not None
            case "gap":
                gap = self._take(_GAP)
                if gap is not None:
                    self._in = "arguments"
                return gap is not None
            case "arguments":
                fragment, closed = self._until(CLOSE, last)
                if fragment:
                    events.append(Fragment(self._calls, fragment))
                if closed:
                    self._calls += 1
                    self._in = "text"
                return closed

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self._held)
        if found is not None:
            self._held = self._held[found.end() :]
        return found

    def _until(self, mark: str, last: bool) -> tuple[str, bool]:
        """Take the text before `mark`, and `mark` itself if it is present."""
        before, found, after = self._held.partition(mark)
        if found:
            self._held = after
            return before, True
        keep = 0 if last else max(overlap(before, mark), self._blanks(before))
        self._held = before[len(before) - keep :]
        return before[: len(before) - keep], False

    def _blanks(self, text: str) -> int:
        """White space at the end of arguments so far: the engine sends it with the next text."""
        return len(text) - len(text.rstrip()) if self._in == "arguments" else 0
