"""Carries calls of other APIs as chat, so that they are captured exactly, and reach any worker.

`options.py` has the options, and `deciding.py` says which calls are translated.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from gateway import (
    BadRequest,
    Call,
    Habits,
    Host,
    Translation,
    Untranslatable,
    Worker,
    hookimpl,
    messages_as_chat,
)
from gateway_plugins.translate.deciding import is_needed, is_wanted, speaks
from gateway_plugins.translate.options import Options

AsChat = Callable[[bytes, Habits], Translation]

TRANSLATED: Mapping[str, AsChat] = {"messages": messages_as_chat}
"""What makes chat of the requests of each API."""


class Translate:
    """The plugin `translate`."""

    Config = Options

    def __init__(self, config: Options) -> None:
        self._options = config
        self._gateway: Host | None = None

    @hookimpl
    def reconfigure(self, config: Options) -> None:
        self._options = config

    @hookimpl
    @contextlib.asynccontextmanager
    async def lifespan(self, gateway: Host) -> AsyncIterator[None]:
        self._gateway = gateway
        yield

    @hookimpl
    async def translate(self, call: Call) -> Translation | None:
        api, gateway = call.api, self._gateway
        if api is None or api.name not in TRANSLATED or call.method != "POST" or gateway is None:
            return None
        when = getattr(self._options, api.name)
        needed = is_needed(call, api.name, gateway.workers)
        if when == "never" or not (needed or is_wanted(call, when, self._options)):
            return None
        body = await call.body.read()
        try:
            return TRANSLATED[api.name](body, Habits())
        except Untranslatable as error:
            if needed:
                raise BadRequest(f"no worker takes this request: {error}") from None
            call.note("not_translated", error.reason)
        return None

    @hookimpl
    def filter_workers(self, call: Call, workers: Sequence[Worker]) -> Sequence[Worker]:
        api = call.api
        if api is None or api.name not in TRANSLATED:
            return workers
        return [worker for worker in workers if speaks(worker, api.name)]
