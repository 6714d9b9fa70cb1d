"""Keeps OpenAI's responses and conversations in the gateway's own database.

So a turn that follows another one goes to any worker, whether the worker speaks Responses or only
chat, and the turns are one session. `turns.py` is the way of a call; `responses.py` and
`conversations.py` answer the routes; `background.py` runs what its caller does not wait for.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import unquote

from gateway import (
    Answer,
    BadRequest,
    Call,
    Host,
    Migrations,
    Outcome,
    ResponsesRequest,
    Translation,
    Untranslatable,
    hookimpl,
    read_responses_request,
)
from gateway_plugins.stored_responses.background import Background
from gateway_plugins.stored_responses.conversations import Conversations
from gateway_plugins.stored_responses.options import Options
from gateway_plugins.stored_responses.responses import Responses
from gateway_plugins.stored_responses.schema import MIGRATIONS
from gateway_plugins.stored_responses.showing import EVENT_HEADERS, json
from gateway_plugins.stored_responses.turns import TURN, TurnSink, begin, refers
from gateway_plugins.stored_responses.upkeep import Upkeep

RESPONSES, CONVERSATIONS = "/v1/responses", "/v1/conversations"

_KEPT = (CONVERSATIONS, RESPONSES + "/")
"""Where calls are about what is kept: they sample nothing."""

NOT_KEPT = frozenset(("compact", "input_tokens", "render"))
"""What stands in place of an id in paths of workers."""


class _Parts:
    """What the plugin consists of while the gateway runs."""

    def __init__(self, gateway: Host, options: Options) -> None:
        self.gateway = gateway
        self.background = Background(gateway, options)
        self.responses = Responses(gateway, self.background)
        self.conversations = Conversations(gateway, options)
        self.upkeep = Upkeep(gateway.storage, options)

    def use(self, options: Options) -> None:
        self.background.options = self.conversations.options = self.upkeep.options = options


class StoredResponses:
    """The plugin."""

    Config = Options

    def __init__(self, config: Options) -> None:
        self._options = config
        self._sink = TurnSink()
        self._parts: _Parts | None = None

    @hookimpl
    def migrations(self) -> Migrations:
        return MIGRATIONS

    @hookimpl
    def reconfigure(self, config: Options) -> None:
        self._options = config
        if self._parts is not None:
            self._parts.use(config)

    @hookimpl
    @contextlib.asynccontextmanager
    async def lifespan(self, gateway: Host) -> AsyncIterator[None]:
        self._parts = parts = _Parts(gateway, self._options)
        upkeep = asyncio.create_task(parts.upkeep.run())
        try:
            yield
        finally:
            upkeep.cancel()
            await parts.background.close()

    @hookimpl
    async def translate(self, call: Call) -> Translation | None:
        if call.path != RESPONSES or call.method != "POST" or self._parts is None:
            call.recorded = call.recorded and not call.path.startswith(_KEPT)
            return None
        if (turn := call.state.get(TURN)) is not None:
            return turn.translation
        body = await call.body.read()
        try:
            request = read_responses_request(body)
        except Untranslatable:
            return None
        if request.background:
            call.recorded = False  # the call that runs in the background has the trace
            return None
        if not self._keeps(request):
            return None
        try:
            turn = await begin(self._parts.gateway.storage, self._options, call, request, body)
        except Untranslatable as error:
            if request.previous_response_id or request.conversation:
                raise BadRequest(error.reason) from None
            return None
        call.state[TURN] = turn
        return turn.translation

    def _keeps(self, request: ResponsesRequest) -> bool:
        stored = self._options.store_by_default if request.store is None else request.store
        follows = request.previous_response_id or request.conversation
        return bool(stored or follows) or refers(request)

    @hookimpl
    async def handle(self, call: Call) -> Answer | None:
        parts = self._parts
        if parts is None or call.internal or not call.path.startswith(("/v1/resp", "/v1/conv")):
            return None
        collection, id_, rest = _place(unquote(call.path))
        if collection == CONVERSATIONS:
            return await parts.conversations.answer(call, id_, rest)
        if collection != RESPONSES or id_ in NOT_KEPT:
            return None
        if id_:
            return await parts.responses.answer(call, id_, rest)
        return await self._in_background(call, parts) if call.method == "POST" else None

    async def _in_background(self, call: Call, parts: _Parts) -> Answer | None:
        """Begin a response in the background, and answer with it as it is, or with its events."""
        body = await call.body.read()
        try:
            request = read_responses_request(body)
        except Untranslatable:  # an engine may be able to read it
            return None
        if not request.background:
            return None
        try:
            if request.store is False:
                raise BadRequest("background needs store", param="background")
            turn = await begin(parts.gateway.storage, self._options, call, request, body)
        except Untranslatable as error:
            raise BadRequest(error.reason) from None
        run = await parts.background.start(call, turn, body)
        return Answer(200, EVENT_HEADERS, run.follow(-1)) if turn.has_events else json(turn.body())

    @hookimpl
    def call_finished(self, call: Call, outcome: Outcome) -> None:
        turn = call.state.get(TURN)
        if turn is None or not turn.is_kept or turn.translator.response.status == "in_progress":
            return
        call.store(self._sink, turn, len(turn.body()) + sum(len(one.data) for one in turn.items))


def _place(path: str) -> tuple[str, str, str]:
    """Return the collection of a path, the id of an object in it, and what follows."""
    parts = path.split("/", 4)
    id_, rest = (*parts[3:], "", "")[:2]
    return "/".join(parts[:3]), id_, rest
