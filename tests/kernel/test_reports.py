"""The gateway says which kernel runs: in its log, its metrics, and to its plugins."""

import logging

import pytest
from support.callers.scraping import scrape

from gateway import ConfigError, Gateway, kernel
from gateway.config import Config
from gateway.testing import GatewayFor

pytestmark = pytest.mark.usefixtures("kernel_of_module")


async def test_log_and_metrics_name_the_kernel(
    gateway_for: GatewayFor, kernel_of_module: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="gateway")
    live = await gateway_for("metrics")
    assert f"kernel: {live.gateway.kernel}" in caplog.messages
    live.gateway.kernel.fallbacks["stream"] += 3
    found = await scrape(live)
    assert found.value("gateway_kernel_in_use", kernel=kernel_of_module) == 1
    assert found.value("gateway_kernel_fallbacks_total", part="stream") == 3
    assert found.value("gateway_kernel_fallbacks_total", part="record") == 0


async def test_log_warns_of_a_lacking_kernel(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kernel_of_module: str
) -> None:
    """An operator who wants Python needs no warning."""
    monkeypatch.setattr(kernel, "_NATIVE", None)
    monkeypatch.setattr(kernel, "_PROBLEM", "no such file")
    if kernel_of_module == "native":
        with pytest.raises(ConfigError, match="=native: there is no native kernel: no such file"):
            Gateway(Config())
        monkeypatch.delenv(kernel.VARIABLE)
    async with Gateway(Config()) as gateway:
        assert gateway.kernel.name == "python"
    warned = [one.message for one in caplog.records if one.levelno == logging.WARNING]
    lacking = "calls cost more than they need to: there is no native kernel: no such file"
    assert (lacking in warned) == (kernel_of_module == "native")
