"""Turns that were sampled by another process, or before a restart: read from the traces."""

import logging
from array import array
from collections.abc import Iterator

from gateway import Database, Trace, TraceChoice
from gateway_plugins.trace_capture.store import queries
from gateway_plugins.trace_capture.store.row_decoder import UnreadableRow
from gateway_plugins.trace_capture.tito.history import history_of
from gateway_plugins.trace_capture.tito.suffix import End
from gateway_plugins.trace_capture.tito.turns import MAX_TURNS, Turn

log = logging.getLogger("gateway.trace_capture")


def read_turns(db: Database, session_id: str) -> list[Turn]:
    """Return the latest turns of a session, oldest first. Blocks; never raises for damage."""
    wanted = queries.TraceFilter(session_ids=(session_id,))
    after = queries.before_newest(db, wanted, MAX_TURNS)
    try:
        traces = list(queries.select(db, wanted, after=after))
    except (UnreadableRow, LookupError) as error:
        log.error("the earlier turns of a session cannot be read: %s", error)
        return []
    return [turn for trace in traces for turn in _turns(trace)]


def _turns(trace: Trace) -> Iterator[Turn]:
    request = trace.raw_request
    if request is None or not trace.messages:
        return
    for choice in trace.choices:
        usable = choice.message is not None and choice.prompt_token_ids and choice.token_ids
        if usable and choice.verdict == "COMPLETE":
            yield turn_of(trace.trace_id, request, choice)


def turn_of(trace_id: str, request: dict[str, object], choice: TraceChoice) -> Turn:
    """Return the turn that a choice of a chat request is; it has a message and token ids."""
    message = choice.message or {}
    history = history_of(request, {**message, "role": "assistant"})
    return Turn(
        trace_id,
        history.digests[-1],
        history.thoughts,
        array("i", choice.prompt_token_ids).tobytes(),
        array("i", choice.token_ids).tobytes(),
        end_of_turn(
            choice.token_ids[-1],
            choice.finish_reason,
            choice.stop_reason,
            calls=bool(message.get("tool_calls")),
        ),
    )


def end_of_turn(
    last: int, finish_reason: str | None, stop_reason: int | str | None, *, calls: bool
) -> End:
    """Return the end of a turn by what the engine tells of it; `last` is its last token."""
    if finish_reason not in ("stop", "tool_calls") or isinstance(stop_reason, str):
        return End(last, "cut", calls)
    return End(last, "by itself" if stop_reason is None else "by a token", calls)
