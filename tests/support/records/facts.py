"""Records of calls that differ in what is searched and counted of them."""

from gateway_plugins.trace_capture.recording.record import Record
from hypothesis import strategies as st
from support.records.trace_records import Turn, record_of

from gateway import Reason

HOURS = (1000.0, 3600.0, 7199.5, 100_000.0)
REASONS: tuple[list[Reason], ...] = ([], [], ["caller_gone"], ["unfinished", "logprobs_missing"])


def fact_record(
    session_id: str | None,
    timestamp: float,
    model: str = "m",
    worker: str | None = "w",
    version: int | str | None = None,
    harness: str = "codex",
    reasons: list[Reason] | None = None,
) -> Record:
    """A call that sampled three tokens, none of which is trainable if there are reasons."""
    record = record_of(Turn([1, 2], [[3, 4, 5]], session_id=session_id))
    record.timestamp, record.model, record.harness = timestamp, model, harness
    head = record.head
    head.worker, head.engine_version = worker, version
    head.reasons, head.choice_reasons = list(reasons or ()), [list(reasons or ())]
    return record


calls = st.tuples(
    st.sampled_from(["a", "B", "a%b_!", None]),
    st.sampled_from(HOURS),
    st.sampled_from(["m", "n"]),
    st.sampled_from(["w", "v", None]),
    st.sampled_from([None, 1, "1", "x" * 300]),
    st.sampled_from(["codex", "unknown"]),
    st.sampled_from(REASONS),
)
"""Arguments of `fact_record`."""
