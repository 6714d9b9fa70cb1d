"""Spans go out at once, so that no test waits for the interval."""

import pytest
from gateway_plugins.otel.exporting import exporter


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_SEMCONV_STABILITY_OPT_IN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(exporter, "INTERVAL", 0.02)
