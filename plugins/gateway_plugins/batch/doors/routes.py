"""The routes of all doors."""

from collections.abc import Callable

from starlette.routing import BaseRoute

from gateway import Host
from gateway_plugins.batch.engine import Engine

Running = Callable[[], Engine]
"""Returns the engine, which runs from before the first request on."""


def routes(gateway: Host, engine: Running) -> list[BaseRoute]:
    """Return the routes of the plugin."""
    return []
