"""Tools and their choice, as chat has them; and from the names in chat's calls back to theirs.

As vLLM: a tool of a namespace is called `<namespace>__<name>`, a tool for free text is shown as a
function with one string, and a tool that a server would run itself is not shown at all.
"""

from collections.abc import Iterator

import msgspec

from gateway.errors import NOT_JSON
from gateway.wire.translation import chat
from gateway.wire.translation.responses.custom_tools import PARAMETERS
from gateway.wire.translation.responses.structs import (
    ABSENT,
    Request,
    Tool,
    ToolChoice,
    decode_tool,
)
from gateway.wire.translation.translation import Untranslatable


class _Grammar(msgspec.Struct):
    type: str | None = None


class Called(msgspec.Struct, frozen=True):
    """What a function in chat is to the caller."""

    name: str
    namespace: str | None = None
    custom: bool = False


class Toolbox(msgspec.Struct):
    """The tools of one request: as chat has them, and by their names in chat."""

    tools: list[chat.Tool]
    called: dict[str, Called]
    read: list[Tool]

    def by_name(self, name: str) -> Called:
        """Return what `name` in a call of chat is; a name that is not known is a function's."""
        return self.called.get(name) or Called(name)


class _Function(msgspec.Struct):
    name: str


class _Choice(msgspec.Struct, kw_only=True):
    type: str = "function"
    function: _Function


def flat_name(namespace: str, name: str) -> str:
    return f"{namespace}__{name}"


def toolbox(tools: list[msgspec.Raw] | None) -> Toolbox:
    """Read the tools of a request. Raises Untranslatable."""
    box = Toolbox([], {}, [])
    for number, raw in enumerate(tools or ()):
        try:
            tool = decode_tool(raw)
        except NOT_JSON as error:
            raise Untranslatable(f"tools[{number}]: {error}", invalid=True) from None
        box.read.append(tool)
        _put(box, tool, f"tools[{number}]")
    return box


def _put(box: Toolbox, tool: Tool, place: str) -> None:
    if tool.type == "function":
        _put_function(box, tool, None, place)
    elif tool.type == "custom":
        _put_custom(box, tool, place)
    elif tool.type == "namespace":
        for part in _within(tool, place):
            _put_function(box, part, tool.name, place)


def _within(tool: Tool, place: str) -> Iterator[Tool]:
    for raw in tool.tools or ():
        try:
            part = decode_tool(raw)
        except NOT_JSON as error:
            raise Untranslatable(f"{place}.tools: {error}", invalid=True) from None
        if part.type == "function":
            yield part


def _put_function(box: Toolbox, tool: Tool, namespace: str | None, place: str) -> None:
    own = _name(tool, place)
    name = flat_name(namespace, own) if namespace else own
    function = chat.Function(
        name=name,
        description=tool.description,
        parameters=msgspec.UNSET if bytes(tool.parameters) == b"null" else tool.parameters,
        strict=tool.strict,
        defer_loading=tool.defer_loading,
    )
    box.tools.append(chat.Tool(function=function))
    box.called[name] = Called(own, namespace)


def _put_custom(box: Toolbox, tool: Tool, place: str) -> None:
    if bytes(tool.format) != bytes(ABSENT) and _grammar(tool.format):
        raise Untranslatable(f"{place}: chat has no tool whose text follows a grammar")
    name = _name(tool, place)
    function = chat.Function(name=name, description=tool.description, parameters=PARAMETERS)
    box.tools.append(chat.Tool(function=function))
    box.called[name] = Called(name, custom=True)


def _grammar(format_: msgspec.Raw) -> bool:
    try:
        return msgspec.json.decode(format_, type=_Grammar).type == "grammar"
    except NOT_JSON:
        return False


def _name(tool: Tool, place: str) -> str:
    if not tool.name:
        raise Untranslatable(f"{place}: a tool has no name", invalid=True)
    return tool.name


def choice(request: Request, box: Toolbox) -> object:
    """Return chat's `tool_choice`; None if there is nothing to choose. Raises Untranslatable."""
    chosen = request.tool_choice
    if not box.tools:
        if chosen not in (None, "auto", "none"):
            raise Untranslatable("tool_choice wants a call, and no tool can be called")
        return None
    if chosen is None or isinstance(chosen, str):
        if chosen not in (None, "auto", "none", "required"):
            raise Untranslatable(f"tool_choice cannot be {chosen!r}", invalid=True)
        return chosen
    if chosen.type not in ("function", "custom"):
        raise Untranslatable(f"chat has no tool_choice of type {chosen.type!r}")
    return _Choice(function=_Function(resolved(chosen, box)))


def resolved(chosen: ToolChoice, box: Toolbox) -> str:
    """Return the name in chat of the chosen tool. Raises Untranslatable."""
    name = chosen.name or ""
    if name in box.called:
        return name
    found = [flat for flat, called in box.called.items() if called.name == name]
    if len(found) != 1:
        few = "is in several namespaces" if found else "is none of the tools"
        raise Untranslatable(f"tool_choice: {name!r} {few}", invalid=True)
    return found[0]
