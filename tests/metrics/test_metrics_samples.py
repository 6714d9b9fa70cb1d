"""What plugins tell by the hook `samples` is told as it is, or left out and counted."""

from collections.abc import Iterator

import pytest
from gateway_plugins.metrics.families import MAX_SAMPLES, Families
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.exposition import generate_latest
from support.callers.scraping import Scrape, scrape

from gateway import Histogram, Sample, hookimpl
from gateway.testing import GatewayFor


class Good:
    @hookimpl
    def samples(self) -> Iterator[Sample]:
        yield Sample("gateway_good", "gauge", 1, "It is good.")


class BreaksOff:
    @hookimpl
    def samples(self) -> Iterator[Sample]:
        yield Sample("gateway_before", "gauge", 1, "Before it breaks.")
        raise RuntimeError("broken")


class Contradicts:
    @hookimpl
    def samples(self) -> list[Sample]:
        return [Sample("gateway_worker_up", "gauge", 5, "It is not.", {"who": "me"})]


class NoList:
    @hookimpl
    def samples(self) -> None:
        return None


@pytest.mark.parametrize("plugin", [BreaksOff, Contradicts, NoList])
async def test_samples_of_a_failing_plugin_are_left_out_and_counted(
    gateway_for: GatewayFor, plugin: type, caplog: pytest.LogCaptureFixture
) -> None:
    live = await gateway_for(plugin, Good, "metrics")
    for _ in range(2):
        found = await scrape(live)
    assert found.value("gateway_good") == found.value("gateway_worker_up") == 1
    assert "gateway_before" not in found.text
    labels = {"plugin": plugin.__name__, "hook": "samples"}
    assert found.value("gateway_hook_failures_total", **labels) == 1, "of the scrape before"
    assert len([one for one in caplog.records if "broke in samples" in one.message]) == 1


def gauge(name: str = "gateway_x", value: float = 1, **labels: str) -> Sample:
    return Sample(name, "gauge", value, "Help.", labels)


HISTOGRAM = Histogram((1.0,))
BAD: dict[str, list[Sample]] = {
    "is no name": [gauge("other_x")],
    "is no name here": [gauge("gateway_X")],
    "only gauges": [Sample("gateway_x_info", "histogram", Histogram((1.0,)), "x")],
    "'gateway_x_count' is no name": [gauge("gateway_x_count")],
    "counters end in _total": [gauge("gateway_x_total")],
    "end in _total": [Sample("gateway_x", "counter", 1, "Help.")],
    "'le' is no name for a label": [gauge(le="1")],
    "'A' is no name for a label": [gauge(A="1")],
    "the value of a gauge": [Sample("gateway_x", "gauge", HISTOGRAM, "Help.")],
    "the value of a histogram": [Sample("gateway_x", "histogram", 1, "Help.")],
    "help must say": [Sample("gateway_x", "gauge", 1, "")],
    "twice": [gauge(a="1"), gauge(a="1")],
    "no histogram": [gauge(), Sample("gateway_x", "histogram", HISTOGRAM, "Help.")],
    "and no others": [gauge(a="1"), gauge(b="1")],
    f"more than {MAX_SAMPLES}": [gauge(a=str(number)) for number in range(MAX_SAMPLES + 1)],
}


@pytest.mark.parametrize("reason", BAD)
def test_families_reject_invalid_samples_as_a_whole(reason: str) -> None:
    families = Families()
    families.add([gauge("gateway_before", who="other")])
    with pytest.raises(ValueError, match=reason):
        families.add([gauge("gateway_before", who="me"), *BAD[reason]])
    assert [len(one.samples) for one in families.collect()] == [1]


def test_plugins_may_share_a_metric_name() -> None:
    families = Families()
    for plugin in ("a", "b"):
        families.add([gauge(plugin=plugin)])
    with pytest.raises(ValueError, match="twice"):
        families.add([gauge(plugin="a")])
    assert Scrape(generate_latest(families).decode()).value("gateway_x") == 2


@given(
    st.dictionaries(st.sampled_from(["a", "b_c"]), st.text() | st.just("\ud800")),
    st.floats(allow_nan=False) | st.integers(-(10**12), 10**12),
)
def test_families_export_any_value_and_label(labels: dict[str, str], value: float) -> None:
    families = Families()
    families.add([Sample("gateway_x", "gauge", value, 'Any "help"\n\\.', labels)])
    found = Scrape(generate_latest(families).decode())
    assert found.value("gateway_x") == value
    [family] = found.families.values()
    read = {name: text.replace("\ud800", "?") for name, text in labels.items()}
    assert family.samples[0].labels == read
