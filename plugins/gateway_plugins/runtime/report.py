"""What the plugin counts, under the names that the replaced system has for it."""

from collections import Counter
from collections.abc import Iterator

from gateway import Histogram, Sample

LOADS = (1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_200.0, 1_800.0, 3_600.0)
"""Bounds of load times, in seconds."""

SEGMENTS = (1.0, 10.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0, 10_800.0, 28_800.0, 86_400.0)
"""Bounds of the times that a model was there for batch items, in seconds."""

MAX_MODELS = 64
"""Maximum number of models that are named; the others are `other`."""

OTHER = "other"


class Tally:
    """Counts since the start, for the configured `models`: no caller can make up a label."""

    def __init__(self, models: frozenset[str]) -> None:
        self._named: frozenset[str] = frozenset()
        self._loads: dict[str, Histogram] = {}
        self.set_models(models)
        self._failures: Counter[tuple[str, str]] = Counter()
        self._segments = Histogram(SEGMENTS)
        self._downloads: Counter[str] = Counter()
        self._switches = 0
        self._preemptions = 0

    def set_models(self, models: frozenset[str]) -> None:
        """Name these models, too, as far as there is room; those of before keep their counts."""
        room = MAX_MODELS - len(self._named)
        self._named |= frozenset(sorted(models - self._named)[: max(room, 0)])
        for model in models:
            self._loads.setdefault(self.label(model), Histogram(LOADS))

    def label(self, model: str) -> str:
        return model if model in self._named else OTHER

    def loaded(self, model: str, seconds: float) -> None:
        self._loads[self.label(model)].add(seconds)

    def switched(self) -> None:
        """One model has made room for another: a first start is no switch."""
        self._switches += 1

    def preempted(self) -> None:
        """A model that was there for batch items made room for realtime calls."""
        self._preemptions += 1

    def segment(self, seconds: float) -> None:
        """A model was there for batch items for so long."""
        self._segments.add(seconds)

    def failed(self, model: str, reason: str) -> None:
        self._failures[self.label(model), reason.removeprefix("runtime_")] += 1

    def downloaded(self, model: str) -> None:
        """A download of a model has begun."""
        self._downloads[self.label(model)] += 1

    def samples(self) -> Iterator[Sample]:
        name, help_ = (
            "llm_model_load_time_seconds",
            "Seconds from a start to an engine that answers.",
        )
        for model, times in self._loads.items():
            yield Sample(name, "histogram", times.copy(), help_, {"model": model})
        name, help_ = "llm_model_failures_total", "Downloads, loads and engines that failed."
        for (model, reason), count in self._failures.items():
            yield Sample(name, "counter", count, help_, {"model": model, "reason": reason})
        name, help_ = "gateway_model_downloads_total", "Downloads of models that have begun."
        for model in self._loads:
            yield Sample(name, "counter", self._downloads[model], help_, {"model": model})
        name, help_ = "llm_batch_segment_duration_seconds", "Seconds of a model for batch items."
        yield Sample(name, "histogram", self._segments.copy(), help_)
        help_ = "Models that made room for another."
        yield Sample("llm_model_switches_total", "counter", self._switches, help_)
        help_ = "Models for batch items that made room for realtime calls."
        yield Sample("llm_preemptions_total", "counter", self._preemptions, help_)
