"""Says in what the answer of a repeated call differs from the recorded one."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec

from gateway import Trace, TraceChoice

WIDTH = 48
"""Characters of a text in the table."""

HEADINGS = ("STEP", "SOURCE", "STATUS", "TOKENS", "EQUAL", "FIRST DIFFERENCE", "TEXT")


class TokenDifference(msgspec.Struct, frozen=True):
    """The first sampled token that differs: the choice, its place, and both ids; None: no token."""

    choice: int
    at: int
    recorded_id: int | None
    found_id: int | None


class Comparison(msgspec.Struct, frozen=True):
    """A step and what became of it. `trace_id` is that of the new trace, None if there is none.

    `equal`: the same tokens were sampled; without token ids, the same messages. `tokens` counts the
    sampled ones.
    """

    session_id: str
    recorded_session_id: str
    step: int
    source: Literal["recorded", "live", "none"]
    recorded_status: int
    status: int
    recorded_trace_id: str
    trace_id: str | None
    equal: bool
    recorded_tokens: int
    tokens: int
    first_difference: TokenDifference | None
    recorded_text: str
    text: str


def compared(
    recorded: Trace, found: Trace | None, session_id: str, step: int, status: int
) -> Comparison:
    """Compare the trace of a step with the new one; `status` is what the new call got."""
    choices = [] if found is None else found.choices
    response = recorded.wire_response
    return Comparison(
        session_id=session_id,
        recorded_session_id=recorded.session_id,
        step=step,
        source="none" if found is None else found.metadata.get("replay", {}).get("source", "live"),
        recorded_status=response.status if response is not None else recorded.delivery.status,
        status=status,
        recorded_trace_id=recorded.trace_id,
        trace_id=None if found is None else found.trace_id,
        equal=_said(recorded.choices) == _said(choices),
        recorded_tokens=_count(recorded.choices),
        tokens=_count(choices),
        first_difference=_first_difference(recorded.choices, choices),
        recorded_text=_text(recorded),
        text="" if found is None else _text(found),
    )


def lines_of(found: Sequence[Comparison]) -> Iterator[str]:
    """Yield a table for each session; control characters are escaped, for the terminal."""
    for session_id in dict.fromkeys(one.session_id for one in found):
        rows = [one for one in found if one.session_id == session_id]
        yield f"{_shown(rows[0].recorded_session_id) or '(no session)'} -> {_shown(session_id)}"
        cells = [HEADINGS, *map(_cells, rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for row in cells:
            yield "  ".join(map(str.ljust, row, widths)).rstrip()


def _said(choices: Sequence[TraceChoice]) -> list[Any]:
    return [one.token_ids or one.message or one.text for one in choices]


def _count(choices: Sequence[TraceChoice]) -> int:
    return sum(len(one.token_ids) for one in choices)


def _first_difference(
    recorded: Sequence[TraceChoice], found: Sequence[TraceChoice]
) -> TokenDifference | None:
    for place, (one, other) in enumerate(zip(recorded, found, strict=False)):
        ids, others = one.token_ids, other.token_ids
        for at in range(max(len(ids), len(others))):
            before, now = (each[at] if at < len(each) else None for each in (ids, others))
            if before != now:
                return TokenDifference(place, at, before, now)
    return None


def _text(trace: Trace) -> str:
    """The text of the first choice, with the tools that it calls."""
    message = trace.response_message
    content = message.get("content")
    calls = message.get("tool_calls")
    shown = [content if isinstance(content, str) else ""]
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            shown.append(f"{function.get('name')}({function.get('arguments')})")
    return " ".join(filter(None, shown)) or trace.error or ""


def _cells(one: Comparison) -> tuple[str, ...]:
    where = one.first_difference
    differs = "" if where is None else f"at {where.at}: {where.recorded_id} -> {where.found_id}"
    return (
        str(one.step),
        one.source,
        str(one.status),
        f"{one.recorded_tokens} -> {one.tokens}",
        "yes" if one.equal else "no",
        differs,
        _shown(one.text),
    )


def _shown(text: str) -> str:
    part = text[: WIDTH + 1]
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in part)
    return escaped if len(escaped) <= WIDTH else f"{escaped[: WIDTH - 3]}..."
