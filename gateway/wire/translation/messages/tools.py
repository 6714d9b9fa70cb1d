"""Tools of a Messages request as chat's, and which of them the model may call."""

from msgspec import Raw
from msgspec.structs import replace

from gateway.wire.translation import chat
from gateway.wire.translation.messages.structs import (
    Block,
    CountRequest,
    Tool,
    ToolDefinition,
)
from gateway.wire.translation.translation import Untranslatable

CHANGES = ("tool_addition", "tool_removal")


def add_tools(asked: CountRequest, made: chat.Request) -> None:
    """Set the tools of `made`, and the choice among them. Raises Untranslatable."""
    tools = _in_effect(asked)
    choice = asked.tool_choice
    if choice is not None:
        made.parallel_tool_calls = not choice.disable_parallel_tool_use
    if tools:
        made.tools = [_tool(tool) for tool in tools]
        made.tool_choice = _choice(asked, {tool.name for tool in tools})
    elif choice is not None and choice.type in ("any", "tool"):
        raise Untranslatable(f"tool_choice is {choice.type} and there are no tools")


def _tool(tool: Tool) -> chat.Tool:
    schema = tool.input_schema
    if "type" not in schema:
        schema = {**schema, "type": Raw(b'"object"')}
    return chat.Tool(
        function=chat.Function(
            name=tool.name,
            description=tool.description,
            parameters=schema,
            strict=tool.strict,
            defer_loading=tool.defer_loading,
        )
    )


def _choice(asked: CountRequest, names: set[str]) -> object:
    choice = asked.tool_choice
    if choice is None or choice.type == "auto":
        return "auto"
    if choice.type == "any":
        return "required"
    if choice.type == "none":
        return "none"
    if not choice.name:
        raise Untranslatable("tool_choice.name is required when type is 'tool'", invalid=True)
    if choice.name not in names:
        raise Untranslatable("tool_choice names no tool of the request")
    return {"type": "function", "function": {"name": choice.name}}


def _in_effect(asked: CountRequest) -> list[Tool] | None:
    """Return the tools at the end of the conversation: templates know one list of them."""
    changes = [
        block
        for message in asked.messages
        if not isinstance(message.content, str)
        for block in message.content
        if block.type in CHANGES
    ]
    if not changes:
        return asked.tools
    tools = {tool.name: tool for tool in asked.tools or ()}
    removed: set[str] = set()
    for block in changes:
        name = _changed(block, tools)
        (removed.add if block.type == "tool_removal" else removed.discard)(name)
    return [tool for name, tool in tools.items() if name not in removed]


def _changed(block: Block, tools: dict[str, Tool]) -> str:
    """Apply one change to `tools`, and return the name of its tool. Raises Untranslatable."""
    change = block.tool
    if change is None:
        raise Untranslatable(f"tool is required for {block.type} blocks", invalid=True)
    if isinstance(change, ToolDefinition):
        if block.type == "tool_removal":
            words = "tool_removal only accepts a tool_reference"
            raise Untranslatable(words, invalid=True)
        tools[change.definition.name] = change.definition
        return change.definition.name
    if change.name not in tools:
        words = f"{block.type} references tool {change.name[:200]!r}, which is not in tools"
        raise Untranslatable(words, invalid=True)
    if block.type == "tool_addition":
        tools[change.name] = replace(tools[change.name], defer_loading=None)
    return change.name
