"""The plugin's metrics."""

from collections import Counter
from collections.abc import Iterator, Mapping

from gateway import Sample
from gateway_plugins.evaluations.rows.items import STATES
from gateway_plugins.evaluations.rows.jobs import OVER, RunState


class Tally:
    """Counts evaluations that have ended, by their last state."""

    def __init__(self) -> None:
        self._ended: Counter[str] = Counter()

    def ended(self, state: RunState) -> None:
        self._ended[state] += 1

    def samples(self, counts: Mapping[str, int]) -> Iterator[Sample]:
        """Yield the metrics; `counts` are those of the items, by their states."""
        for state in STATES:
            help_ = "Items of evaluations that have not ended."
            labels = {"state": state}
            yield Sample("llm_eval_items", "gauge", counts.get(state, 0), help_, labels, "sum")
        for status in sorted(OVER):
            help_ = "Evaluations that have ended."
            value = self._ended[status]
            yield Sample("gateway_evaluations_total", "counter", value, help_, {"status": status})
