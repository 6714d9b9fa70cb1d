"""The project tests itself with what it gives to plugin authors, on the loop that `serve` runs."""

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

import httpx
import pytest
import uvloop
from hypothesis import HealthCheck, settings

from gateway.simulator import Simulator

# Nothing here meets a certificate of the world's authorities; to read those takes a client 30 ms.
os.environ.setdefault("SSL_CERT_DIR", os.devnull)

# How long an example takes says how busy the machine is, and nothing of the code.
NO_CLOCK = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", NO_CLOCK, max_examples=25)
settings.register_profile("thorough", NO_CLOCK, max_examples=2000)
settings.load_profile("quick")

gc.disable()  # until all tests are collected: none of them is garbage

pytest_plugins = [
    "gateway.testing",
    "support.plugins.kernels",
    "support.records.recorded_file",
    "support.workers.trl_worker",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kills", type=int, default=100, help="gateways killed by the slow test of that (100)"
    )
    parser.addoption(
        "--otel-minutes", type=float, default=2, help="load beside a broken collector of spans (2)"
    )


def pytest_collection_finish() -> None:
    """Leave the tests themselves out of collections of garbage from now on, 0.4 s for each."""
    gc.freeze()
    gc.enable()


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
