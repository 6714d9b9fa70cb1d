"""A worker in the gateway's own process: a function in place of inference servers.

    async def answer(body: dict[str, Any]) -> dict[str, Any]: ...
    app = create_app(config, local_handler=answer)

The function is the gateway's only worker, with the id `local`, so hooks, injections, attempts and
traces work as with any other worker. It receives the body that would have been sent to a server,
and returns the response of a server to a request without streaming. If the caller streams, the
gateway sends that response as events.
"""

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from gateway.calls.body import parse_object
from gateway.calls.call import Call
from gateway.calls.records import Answer, Attempt
from gateway.config import Config
from gateway.config import Worker as WorkerSettings
from gateway.errors import CallError, FirstByteTimeout, InvalidJSON, NotFound, UpstreamError
from gateway.fleet.worker import Worker
from gateway.pipeline.answer import send_answer
from gateway.pipeline.exchange import Exchange
from gateway.wire.apis.openai_events import as_events
from gateway.wire.apis.openai_files import MODELS
from gateway.wire.dialect import Dialect
from gateway.wire.surrogates import readable

log = logging.getLogger("gateway")

LocalHandler = Callable[[dict[str, Any]], dict[str, Any] | Awaitable[dict[str, Any]]]
"""Maps the body of a call to /v1/chat/completions or /v1/completions to OpenAI's response.

The gateway adds `id`, `object`, `created` and `model` if the response lacks them. If the body has
`return_token_ids`, the ids are expected in vLLM's format: `token_ids` in each choice,
`prompt_token_ids` at the top (chat) or in each choice (completions). `{"error": {...}}` is an
error, with `code` as its status. If the function raises a CallError, the caller gets it as the
response. A function that is not asynchronous runs in a thread, which continues if the caller
leaves.
"""

NAME = "local"

_JSON = (b"content-type", b"application/json")
_EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")


class LocalWorker(Worker):
    """Calls `handler` instead of using a connection; `url` is `local`."""

    remote = False

    def __init__(self, handler: LocalHandler, config: Config) -> None:
        settings = WorkerSettings(url=f"http://{NAME}", worker_id=NAME)
        super().__init__(settings, config.timeouts, config.server_limits)
        self.url = NAME
        self._handler = handler
        # A callable object may have an `async def __call__`.
        self._waits = inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
            getattr(handler, "__call__", None)  # noqa: B004  inspected, not called
        )

    async def run(self, exchange: Exchange, attempt: Attempt, settings: Config) -> bytes:
        """Run the call, relay the response but for its last bytes, and return those.

        Raises the same exceptions as `attempt.try_once`.
        """
        call = exchange.call
        await call.body.read()
        attempt.connected = attempt.sent = time.monotonic()
        limit = settings.timeouts.first_byte
        try:
            async with asyncio.timeout(limit):
                answer = await self._answer(call, exchange.prepare_body(attempt) or b"")
        except TimeoutError:
            raise FirstByteTimeout(limit or 0) from None
        return await send_answer(exchange, answer, settings, attempt)

    async def _answer(self, call: Call, body: bytes) -> Answer:
        dialect = call.dialect
        if dialect is not None and dialect.object and call.method == "POST":
            try:
                asked = parse_object(readable(body))
            except InvalidJSON as error:
                return _plain(error.status, error.body())
            return await self._generated(call, asked, dialect)
        if call.path in MODELS.paths and call.method == "GET":
            model = {"id": NAME, "object": "model", "created": int(call.created), "owned_by": NAME}
            return _plain(200, msgspec.json.encode({"object": "list", "data": [model]}))
        return _plain(404, NotFound(f"the local worker has nothing at {call.path}").body())

    async def _generated(self, call: Call, asked: dict[str, Any], dialect: Dialect) -> Answer:
        said = await self._asked(call, dict(asked))
        try:
            status = _status(said)
            if status != 200:
                return _plain(status, msgspec.json.encode(said))
            answer = {**_head(call, asked, dialect), **said}
            if call.streams:
                events = as_events(answer, dialect, usage=_wants_usage(asked))
                return Answer(200, [_EVENTS], events)
            return _plain(200, msgspec.json.encode(answer))
        except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
            what = "the local handler's answer cannot be sent"
            log.error(what, exc_info=error, extra=call.log_extra())
            raise UpstreamError("the local handler gave no valid answer") from error

    async def _asked(self, call: Call, body: dict[str, Any]) -> Any:
        try:
            if self._waits:
                said: Any = self._handler(body)
            else:
                said = await asyncio.to_thread(self._handler, body)
            return await said if inspect.isawaitable(said) else said
        except CallError:
            raise
        except (Exception, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            log.exception("the local handler failed", extra=call.log_extra())
            raise UpstreamError("the local handler failed on this call") from error


def _head(call: Call, asked: Mapping[str, Any], dialect: Dialect) -> dict[str, Any]:
    """Fields that clients expect in any response, in case the handler omits them."""
    return {
        "id": dialect.id_prefix + call.id,
        "object": dialect.object,
        "created": int(call.created),
        "model": asked.get("model") or NAME,
    }


def _plain(status: int, body: bytes) -> Answer:
    return Answer(status, [_JSON, (b"content-length", b"%d" % len(body))], body)


def _status(said: object) -> int:
    """Return the status: 200, or that of an error. Raises TypeError if `said` is not a dict."""
    if not isinstance(said, dict):
        raise TypeError(f"it is not a dict but a {type(said).__name__}")
    error = said.get("error")
    if error is None:
        return 200
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and 400 <= code <= 599 else 500


def _wants_usage(asked: Mapping[str, Any]) -> bool:
    options = asked.get("stream_options")
    return isinstance(options, dict) and bool(options.get("include_usage"))
