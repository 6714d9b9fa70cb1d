"""The project tests itself with what it gives to plugin authors, on the loop that `serve` runs."""

import asyncio
from collections.abc import Callable, Mapping

import uvloop

pytest_plugins = ["gateway.testing"]


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}
