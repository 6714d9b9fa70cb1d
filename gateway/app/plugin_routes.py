"""The routes that plugins add to the gateway."""

from collections.abc import Collection, Sequence
from urllib.parse import unquote

from starlette.routing import BaseRoute, Match

from gateway.control.routes import ControlRoute
from gateway.control.scoped import CARRIED, ScopedRoute
from gateway.errors import (
    ConfigError,
)
from gateway.frontends.way import CarriedRoute
from gateway.plugins.host import Host
from gateway.plugins.loader import Plugins


def added_routes(
    plugins: Plugins, gateway: Host, only: Collection[str]
) -> dict[str, Sequence[BaseRoute]]:
    """Return the routes of the plugins in `only`, by plugin. Raises ConfigError."""
    found: dict[str, Sequence[BaseRoute]] = {}
    for name, routes in plugins.run("routes", gateway, only=only).items():
        with plugins.naming_plugin(name):
            found[name] = tuple(routes)
            _check_scopes(found[name])
    return found


def carried_routes(routes: Sequence[BaseRoute]) -> list[CarriedRoute]:
    """Return those of the routes that need no router to carry their requests."""
    inner = [route.route for route in routes if isinstance(route, ScopedRoute)]
    return [route for route in inner if isinstance(route, CarriedRoute)]


def routes_in_v1(routes: Sequence[BaseRoute]) -> list[ControlRoute | ScopedRoute]:
    """Return those that answer paths under /v1/ themselves: they come before workers."""
    return [
        route
        for route in routes
        if isinstance(route, ControlRoute | ScopedRoute)
        and route.scope != CARRIED
        and route.path.startswith("/v1/")
    ]


def beginnings_of(routes: Sequence[ControlRoute | ScopedRoute]) -> list[str]:
    """Return the fewest texts with one of which each path of the routes begins.

    Every call is compared with each of them.
    """
    found: list[str] = []
    for beginning in sorted(route.path.partition("{")[0] for route in routes):
        if not beginning.startswith(tuple(found)):
            found.append(beginning)
    return found


def leads_to_calls(routes: Sequence[BaseRoute], method: str, path: str) -> bool:
    """Return whether the first of the routes that match a request leads to calls."""
    scope = {"type": "http", "method": method, "path": unquote(path), "raw_path": path.encode()}
    for route in routes:
        match, found = route.matches({**scope, "root_path": "", "headers": []})
        if match is Match.FULL:
            return CARRIED in found
    return False


def _check_scopes(routes: Sequence[BaseRoute]) -> None:
    """Raise ConfigError if a route declares no scope."""
    for route in routes:
        if not isinstance(route, ControlRoute | ScopedRoute):
            raise ConfigError(
                f"its route {getattr(route, 'path', route)!r} declares no scope: make it with "
                "gateway.control(..., scope=...), or wrap it in gateway.guarded(route, scope=...), "
                "or in gateway.carried(route) where it leads to calls"
            )
