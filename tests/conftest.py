"""The project tests itself with what it gives to plugin authors, on the loop that `serve` runs."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import httpx
import pytest
import uvloop
from hypothesis import HealthCheck, settings

from gateway.simulator import Simulator

# How long data takes to make says how busy the machine is, and nothing of the code.
settings.register_profile("quick", max_examples=25, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", max_examples=2000, deadline=None)
settings.load_profile("quick")

pytest_plugins = ["gateway.testing", "support.records.recorded_file", "support.workers.trl_worker"]


_RUN_AGAIN: set[str] = set()
"""Tests whose process has ended while they ran."""


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(crashitem: str, report: pytest.TestReport, sched: Any) -> None:
    """Run a test again, once, if its process ended without a word: that is no verdict on the test.

    It happens rarely, to another test each time, and leaves no trace of a fault.
    """
    if crashitem not in _RUN_AGAIN:
        _RUN_AGAIN.add(crashitem)
        sched.mark_test_pending(crashitem)
        report.outcome = "skipped"
        report.longrepr = (crashitem.split("::")[0], 0, f"its process has ended: {crashitem}")


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def client(simulator: Simulator) -> AsyncIterator[httpx.AsyncClient]:
    """Speaks to the test's simulator, with no gateway between."""
    async with httpx.AsyncClient(base_url=simulator.url) as opened:
        yield opened


@pytest.fixture
def empty_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An empty working directory, so that messages begin with a file's bare name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("folder"))
        yield
