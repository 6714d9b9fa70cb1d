"""What is counted and searched of a trace without reading it."""

from typing import NamedTuple

from gateway import Trace, Usage
from gateway_plugins.trace_capture.recording.public_trace import version_of
from gateway_plugins.trace_capture.recording.record import Record

MAX_TEXT = 200
"""Characters of a weight version: an engine chooses it."""


class Facts(NamedTuple):
    """`worker` answered, with the weights `version`, a call of `harness`; "" if it is not known.

    `sampled` tokens came, of which `trainable` belong to choices that are COMPLETE. `reasons` are
    those of the verdict, with spaces between them, "" if the trace is COMPLETE.
    """

    worker: str
    version: str
    harness: str
    sampled: int
    trainable: int
    reasons: str


def facts_of(record: Record) -> Facts:
    """Return the facts of a record as it was made."""
    head, parts = record.head, record.answer.parts
    counts = [len(part.packed_ids) // 4 for part in parts]
    sampled = trainable = sum(counts)
    if head.reasons:
        whole = [not reasons for reasons in head.choice_reasons]
        trainable = sum(count for count, one in zip(counts, whole, strict=False) if one)
        sampled = sampled or _told(record)
    return Facts(
        worker=head.worker or "",
        version=text_of_version(version_of(head)),
        harness=record.harness,
        sampled=sampled,
        trainable=trainable,
        reasons=" ".join(head.reasons),
    )


def changed_facts(record: Record, trace: Trace) -> Facts:
    """Return the facts of a trace as a hook has left it."""
    counts = [(len(one.token_ids), one.verdict == "COMPLETE") for one in trace.choices]
    return Facts(
        worker=trace.worker or "",
        version=text_of_version(trace.weight_version),
        harness=record.harness,
        sampled=sum(count for count, _ in counts),
        trainable=sum(count for count, whole in counts if whole),
        reasons=" ".join(trace.reasons),
    )


def text_of_version(version: int | str | None) -> str:
    """Return a weight version as it is searched."""
    return "" if version is None else str(version)[:MAX_TEXT]


def _told(record: Record) -> int:
    """Return how many tokens were sampled if no ids came, as far as somebody has counted them."""
    if record.head.tokens is not None:
        return record.head.tokens[1]
    told = Usage.from_wire(record.head.usage)
    return 0 if told is None else told.completion_tokens or 0
