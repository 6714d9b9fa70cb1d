"""Counts of what can be trained on since the process began, as a scrape reads them.

Callers choose the names of models and, by `user-agent`, of harnesses. So such a name gets a label
once one of its calls has sampled something, up to MAX_NAMES of each; any other is OTHER.
"""

from collections import Counter
from collections.abc import Iterator
from typing import get_args

from gateway import Reason, Sample
from gateway_plugins.trace_capture.recording.facts import Facts
from gateway_plugins.trace_capture.training.hours import causes

OTHER = "other"

MAX_NAMES = 100
"""Names of workers, of models and of harnesses, each."""

MAX_LENGTH = 200
"""Characters of a name that gets a label."""

MAX_GROUPS = 1_000
"""Combinations of these names; the calls of further ones count with OTHER for each."""

_REASONS = frozenset(get_args(Reason))

Group = tuple[str, str, str]
"""The labels worker, model and harness."""

_CALLS = "gateway_training_calls_total"
_TOKENS = "gateway_training_tokens_total"
_OF_CALLS = "Committed traces, by verdict: COMPLETE ones can be trained on."
_OF_TOKENS = "Sampled tokens, and whether they can be trained on."
_COUNTERS = (
    (_CALLS, "verdict", "COMPLETE", _OF_CALLS),
    (_CALLS, "verdict", "INCOMPLETE", _OF_CALLS),
    (_TOKENS, "trainable", "true", _OF_TOKENS),
    (_TOKENS, "trainable", "false", _OF_TOKENS),
)
"""Metric, label, its value and the help of each of a group's sums."""

_NOT_KNOWN: Group = (OTHER, OTHER, OTHER)


class Totals:
    """Counts committed traces. `add` is called in the writer's thread, `samples` in any."""

    def __init__(self) -> None:
        self._workers: set[str] = set()
        self._models: set[str] = set()
        self._harnesses: set[str] = set()
        self._sums: dict[Group, list[int]] = {}
        self._reasons: Counter[tuple[str, str]] = Counter()

    def add(self, facts: Facts, model: str, *, complete: bool) -> None:
        """Count a trace by its facts; `model` is the one that its caller has named."""
        sums = self._sums.get((facts.worker, model, facts.harness))
        if sums is None:
            sums = self._new_sums(facts, model)
        sums[0 if complete else 1] += 1
        sums[2] += facts.trainable
        sums[3] += facts.sampled - facts.trainable
        if facts.reasons:
            worker = _label(self._workers, facts.worker)
            for reason in causes(facts.reasons.split()):
                self._reasons[worker, reason if reason in _REASONS else OTHER] += 1

    def _new_sums(self, facts: Facts, model: str) -> list[int]:
        """Return the sums of a group whose names may be no labels."""
        sampled = facts.sampled > 0
        group = (
            _label(self._workers, facts.worker),
            _label(self._models, model, is_good=sampled),
            _label(self._harnesses, facts.harness, is_good=sampled),
        )
        if group not in self._sums and len(self._sums) >= MAX_GROUPS:
            group = _NOT_KNOWN
        return self._sums.setdefault(group, [0, 0, 0, 0])

    def samples(self) -> Iterator[Sample]:
        for (worker, model, harness), sums in list(self._sums.items()):
            labels = {"worker": worker, "model": model, "harness": harness}
            for (name, label, value, help_), count in zip(_COUNTERS, sums, strict=True):
                yield Sample(name, "counter", count, help_, {**labels, label: value})
        help_ = "Reasons for which committed traces cannot be trained on."
        for (worker, reason), count in list(self._reasons.items()):
            labels = {"worker": worker, "reason": reason}
            yield Sample("gateway_training_reasons_total", "counter", count, help_, labels)


def _label(known: set[str], name: str, *, is_good: bool = True) -> str:
    if name in known or not name:
        return name
    if not is_good or len(known) >= MAX_NAMES or len(name) > MAX_LENGTH:
        return OTHER
    known.add(name)
    return name
