"""The routes of all doors."""

from collections.abc import Callable

from starlette.routing import BaseRoute

from gateway import Host
from gateway_plugins.batch.doors.batches import batch_routes
from gateway_plugins.batch.doors.completions import FORMS, Completions
from gateway_plugins.batch.doors.files.routes import file_routes
from gateway_plugins.batch.doors.jobs import Jobs
from gateway_plugins.batch.doors.listing import Listing
from gateway_plugins.batch.doors.operating import Operating
from gateway_plugins.batch.doors.uploads.routes import upload_routes
from gateway_plugins.batch.engine import Engine
from gateway_plugins.batch.options import Options


def routes(gateway: Host, engine: Callable[[], Engine], options: Options) -> list[BaseRoute]:
    """Return the routes. `engine` returns the engine, which runs before the first request."""
    completions = [Completions(gateway, engine, form) for form in FORMS]
    return [
        *(route for door in completions for route in door.routes(gateway)),
        *Jobs(gateway, engine, options).routes(gateway),
        *file_routes(gateway, engine),
        *batch_routes(gateway, engine),
        *upload_routes(gateway, engine),
        *Listing(gateway).routes(gateway),
        *Operating(engine).routes(gateway),
    ]
