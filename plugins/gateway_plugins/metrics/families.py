"""Checks the samples of one scrape against the rules of the exposition format, and writes them."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product

import msgspec
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder, generate_latest

from gateway import Histogram, Sample

MAX_SAMPLES = 20_000
"""Maximum number of samples of one plugin in one scrape."""

_NAME = re.compile(r"(gateway|gen_ai|llm)(_[a-z0-9]+)+")
_LABEL = re.compile(r"[a-z][a-z0-9_]*")
_TAKEN = ("_bucket", "_sum", "_count", "_created")
"""Suffixes that the exposition format adds to names itself."""

_NO_SUMS = frozenset(product(("max", "min"), ("counter", "histogram")))

Values = tuple[str, ...]

PluginSamples = tuple[str, Iterable[Sample]]
"""A plugin's name, and its samples."""


class Family(msgspec.Struct, eq=False):
    """All samples of one name; `series` maps the values of the `labels` to a sample's value."""

    name: str
    kind: str
    merge: str
    help: str
    labels: tuple[str, ...]
    series: dict[Values, float | Histogram] = {}

    def take(self, sample: Sample) -> None:
        """Add a sample. Raises ValueError if it does not belong to this family."""
        if sample.kind != self.kind:
            raise ValueError(f"{self.name} is a {self.kind} already, and no {sample.kind}")
        if sample.merge != self.merge:
            raise ValueError(f"{self.name} has merge={self.merge!r} already, not {sample.merge!r}")
        if tuple(sorted(sample.labels)) != self.labels:
            raise ValueError(f"{self.name} has the labels {self.labels} already, and no others")
        values = tuple(_clean(sample.labels[label]) for label in self.labels)
        if values in self.series:
            raise ValueError(f"{self.name} has {dict(sample.labels)} twice")
        value = sample.value  # copied, as a histogram changes while it is written
        self.series[values] = value.copy() if isinstance(value, Histogram) else float(value)

    def metric(self) -> Metric:
        """Convert the family to a metric of prometheus-client."""
        if self.kind == "histogram":
            return self._histogram()
        kind = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        metric: CounterMetricFamily | GaugeMetricFamily
        metric = kind(self.name, self.help, labels=self.labels)
        for values, value in self.series.items():
            assert not isinstance(value, Histogram)  # `_check` ensures this
            metric.add_metric(values, value)
        return metric

    def _histogram(self) -> Metric:
        metric = HistogramMetricFamily(self.name, self.help, labels=self.labels)
        for values, value in self.series.items():
            assert isinstance(value, Histogram)
            metric.add_metric(values, list(_buckets(value)), value.sum)
        return metric


class Families:
    """A Collector for prometheus-client."""

    def __init__(self) -> None:
        self._families: dict[str, Family] = {}

    def add(self, samples: Iterable[Sample]) -> None:
        """Add all samples, or none. Raises ValueError, and anything that the iterable raises."""
        taken: dict[str, Family] = {}
        for number, sample in enumerate(samples):
            if number >= MAX_SAMPLES:
                raise ValueError(f"more than {MAX_SAMPLES} samples; give its labels fewer values")
            _check(sample)
            family = taken.get(sample.name)
            if family is None:
                family = taken[sample.name] = self._beginning(sample)
            family.take(sample)
        self._families.update(taken)

    def _beginning(self, sample: Sample) -> Family:
        """Return a copy of the family as others have filled it, or an empty one."""
        there = self._families.get(sample.name)
        if there is not None:
            return msgspec.structs.replace(there, series=dict(there.series))
        labels = tuple(sorted(sample.labels))
        return Family(sample.name, sample.kind, sample.merge, sample.help, labels)

    def __iter__(self) -> Iterator[Family]:
        return iter(self._families.values())

    def having(self, family: Family) -> Family:
        """Return the family of the same name; if there is none, add and return `family`."""
        return self._families.setdefault(family.name, family)

    def collect(self) -> Iterator[Metric]:
        for name in sorted(self._families):
            yield self._families[name].metric()


def checked(told: Sequence[PluginSamples]) -> tuple[Families, list[tuple[str, Exception]]]:
    """Return all valid samples; and the plugins that were left out, each with its error."""
    families = Families()
    broken: list[tuple[str, Exception]] = []
    for plugin, samples in told:
        try:
            families.add(samples)
        except Exception as error:  # noqa: BLE001  samples hold whatever their plugin put there
            broken.append((plugin, error))
    return families, broken


def encoder_for(accept: str) -> tuple[Callable[[Families], bytes], str]:
    """Return the encoder for a scraper's Accept header, and its content type."""
    try:
        return choose_encoder(accept)
    except (TypeError, ValueError):  # an invalid version
        return generate_latest, "text/plain; version=0.0.4; charset=utf-8"


def _check(sample: Sample) -> None:
    """Raise ValueError if a sample is invalid by itself."""
    name, counts = sample.name, sample.kind == "counter"
    if not _NAME.fullmatch(name) or name.endswith(_TAKEN):
        raise ValueError(f"{name!r} is no name here: gateway_, then words in lower case and a unit")
    if name.endswith("_info") and sample.kind != "gauge":
        raise ValueError(f"{name}: only gauges, which are 1 then, have names that end in _info")
    if counts != name.endswith("_total"):
        raise ValueError(f"{name}: the names of counters end in _total, and no others do")
    if sample.merge not in ("sum", "max", "min") or (sample.merge, sample.kind) in _NO_SUMS:
        raise ValueError(f"{name}: merge is {sample.merge!r}; sum, or max and min for a gauge")
    for label in sample.labels:
        if not _LABEL.fullmatch(label) or label in ("le", "quantile"):
            raise ValueError(f"{name}: {label!r} is no name for a label")
    if isinstance(sample.value, Histogram) != (sample.kind == "histogram"):
        raise ValueError(f"{name}: the value of a {sample.kind} is not {sample.value!r}")
    if not (isinstance(sample.help, str) and sample.help):
        raise ValueError(f"{name}: help must say what it is")


def _clean(value: str) -> str:
    """Replace half a surrogate pair, which cannot be sent."""
    return value.encode("utf-8", "replace").decode()


def _buckets(histogram: Histogram) -> Iterator[tuple[str, float]]:
    """Yield each bound, with the number of values that are not above it."""
    total = 0
    for bound, count in zip((*histogram.bounds, "+Inf"), histogram.counts, strict=True):
        total += count
        yield str(bound), total
