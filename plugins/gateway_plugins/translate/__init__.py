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
    StateKey,
    Translation,
    Untranslatable,
    Worker,
    hookimpl,
    messages_as_chat,
    responses_as_chat,
)
from gateway_plugins.translate.deciding import is_needed, is_wanted, speaks
from gateway_plugins.translate.options import Options

AsChat = Callable[[bytes, Habits], Translation]


def _responses(body: bytes, habits: Habits) -> Translation:
    return responses_as_chat(body)


TRANSLATED: Mapping[str, AsChat] = {"messages": messages_as_chat, "responses": _responses}
"""What makes chat of the requests of each API."""

REASON = StateKey[str]("translate")
"""Why a call is not translated although no worker speaks its API."""


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
            call.note("not_translated", error.reason)
            if needed:  # another plugin may still answer it
                call.state[REASON] = error.reason
        return None

    @hookimpl
    def filter_workers(self, call: Call, workers: Sequence[Worker]) -> Sequence[Worker]:
        api = call.api
        if api is None or api.name not in TRANSLATED:
            return workers
        if (reason := call.state.get(REASON)) is not None:
            raise BadRequest(f"no worker takes this request: {reason}")
        return [worker for worker in workers if speaks(worker, api.name)]
