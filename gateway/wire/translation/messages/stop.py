"""Why a Messages response ended."""

import msgspec

from gateway.errors import NOT_JSON

ENDS = ("stop", "tool_calls", "function_call")
"""Finish reasons of a turn that the model or a stop string has ended."""


def stop_of(
    finish: str | None, stop: int | str | None, *, used_tool: bool, whole_tool: bool, refused: bool
) -> tuple[str | None, str | None]:
    """Return `stop_reason` and `stop_sequence` for chat's finish reason and its `stop_reason`.

    `used_tool`: a tool was called; `whole_tool`: the arguments of the last call are whole. A call
    that a stop string has cut must not run. `refused`: the text is a refusal. A finish reason
    that is not known has none here.
    """
    if finish == "length":
        return "max_tokens", None
    if finish == "content_filter" or (refused and finish in ENDS):
        return "refusal", None
    if finish not in ENDS:
        return None, None
    if whole_tool:
        return "tool_use", None
    if isinstance(stop, str):
        return "stop_sequence", stop
    return ("tool_use" if finish != "stop" or used_tool else "end_turn"), None


def is_json(text: bytes) -> bool:
    try:
        msgspec.json.decode(text)
    except NOT_JSON:
        return False
    return True
