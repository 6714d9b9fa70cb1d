"""Which weights sampled which tokens of a stream that several workers sent."""

from collections.abc import Sequence

from gateway import TraceChoice, WeightSpan
from gateway_plugins.trace_capture.recording.head import AttemptRecord

UNKNOWN_WEIGHTS = "unknown"
"""The version of tokens whose worker died before it told which weights sampled them."""


def add_spans(choice: TraceChoice, attempts: Sequence[AttemptRecord]) -> None:
    """Add the spans of the attempts to those that the engine has told of its own tokens."""
    if all(one.tokens is None for one in attempts):
        return
    told, spans, start = choice.weight_versions or [], [], 0
    for one in attempts:
        end = start + (one.tokens or 0)
        own = [span for span in told if start <= span.start < end]
        spans += own or _of_attempt(one, start, end, told)
        start = end
    choice.weight_versions = spans or None


def _of_attempt(
    attempt: AttemptRecord, start: int, end: int, told: Sequence[WeightSpan]
) -> list[WeightSpan]:
    version = UNKNOWN_WEIGHTS if told and attempt.version is None else attempt.version
    if version is None or start == end:
        return []
    return [WeightSpan(version=version, start=start, end=end)]
