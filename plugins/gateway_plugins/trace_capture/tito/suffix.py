"""What follows a sampled turn in a prompt: the rest of its end, and the messages after it.

The engine renders the conversation twice, with two different texts in place of the sampled turn.
What both prompts end in follows the turn, whatever its own tokens are.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

Ended = Literal["by itself", "by a token", "cut"]
"""How a turn ended: the model ended it; it sampled a token at which the caller wanted it to stop;
or it was cut: at its maximum length, or at a text."""

STAND_INS = ("1", "2")
"""Texts in place of a turn. They have no token in common, and none with what follows them."""


class End(msgspec.Struct, frozen=True):
    """The end of a sampled turn: its last token, how it ended, and whether it called tools."""

    last: int
    ended: Ended
    calls: bool = False


def common_suffix(one: Sequence[int], other: Sequence[int]) -> list[int]:
    """Return the token ids that both end in."""
    length = 0
    for a, b in zip(reversed(one), reversed(other), strict=False):
        if a != b:
            break
        length += 1
    return list(one[len(one) - length :])


def suffix_of(
    end: End, close: Sequence[int], one: Sequence[int], other: Sequence[int]
) -> list[int] | None:
    """Return the ids to append to a sampled turn; None if they cannot be told exactly.

    `close` are the ids that the template writes after such a turn, up to the next message. `one`
    and `other` are the prompts with the two stand-ins.
    """
    rest = common_suffix(one, other)
    if not close or len(rest) >= min(len(one), len(other)):
        return None
    if end.ended != "cut" and end.last in close and end.last in rest:
        return rest[rest.index(end.last) + 1 :]
    if end.ended == "by itself" or end.calls or rest[: len(close)] != list(close):
        return None
    return rest


def stand_in(text: str, message: Mapping[str, Any]) -> dict[str, Any]:
    """Return the assistant's message with `text` in place of what was sampled."""
    made: dict[str, Any] = {"role": "assistant", "content": text}
    calls = message.get("tool_calls")
    if isinstance(calls, list) and calls:
        made["tool_calls"] = [_call(text, call) for call in calls]
    return made


def _call(name: str, call: object) -> dict[str, Any]:
    given = call if isinstance(call, dict) else {}
    function = {"name": name, "arguments": "{}"}
    return {"type": "function", "id": given.get("id") or "call_1", "function": function}
