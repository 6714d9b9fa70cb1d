"""Samples about updates of the weights, the same for every plugin that makes updates."""

from collections.abc import Iterator

from gateway import Sample
from gateway_plugins.weights.gate import Gate


def samples_of(plugin: str, epoch: int, gate: Gate) -> Iterator[Sample]:
    """Yield the samples; `epoch` is the number of updates that `plugin` has made."""
    labels = {"plugin": plugin}
    help_ = "Updates of the weights since the start."
    yield Sample("gateway_weights_updates_total", "counter", epoch, help_, labels)
    help_ = "Calls that wait for the end of an update."
    yield Sample("gateway_weights_held", "gauge", gate.held, help_, labels)
    help_ = "1 while an update or a pause holds calls."
    yield Sample("gateway_weights_closed", "gauge", gate.closed, help_, labels)
