"""Waits until an engine answers with its model, or fails."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic
from typing import Protocol

import msgspec

from gateway import NOT_JSON, GatewayError, UpstreamTimeout, Worker, WorkerAnswer, error_message
from gateway_plugins.runtime.drivers.driver import Exit
from gateway_plugins.runtime.loading.failures import Failure, failure, failure_of
from gateway_plugins.runtime.options import Model

ANSWER = 5.0
"""Seconds for the answer to `GET /v1/models`."""

FIRST, GROWTH, LONGEST = 0.1, 1.5, 1.0
"""Seconds between two questions, which grow from FIRST to LONGEST."""

AFTERMATH = 2.0
"""Seconds in which an engine that has failed may end: its exit tells more than its answers."""

MODELS = "/v1/models"

WARMUPS: tuple[tuple[str, Mapping[str, object]], ...] = (
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}]}),
    ("/v1/completions", {"prompt": "Hello"}),
)
"""Requests of which one must be answered; not every model has a chat template."""

LONGEST_ANSWER = 200

Ask = Callable[[str, str, bytes, float], Awaitable[WorkerAnswer]]
"""Sends a request to the engine: method, path, body, and the seconds that it may take.

Raises GatewayError if no answer came.
"""


class Watched(Protocol):
    """An engine, as far as it is needed here."""

    async def ended(self) -> Exit: ...


class Log(Protocol):
    """The log of the engine, as far as it is needed here."""

    @property
    def latest(self) -> float: ...
    @property
    def tail(self) -> list[str]: ...


def asking(worker: Worker) -> Ask:
    """Return the `Ask` of a worker, which need not be in the registry."""

    async def ask(method: str, path: str, body: bytes, seconds: float) -> WorkerAnswer:
        headers = [(b"content-type", b"application/json")] if body else []
        return await worker.request(method, path, body, headers=headers, timeout=seconds)

    return ask


async def wait_until_ready(
    model: Model, engine: Watched, log: Log, ask: Ask, *, began: float
) -> Failure | None:
    """Wait until the engine names `model` and has answered a warm-up; return why not, or None.

    `began` is the `time.monotonic()` of its start, from which `ready_timeout` counts; no new line
    in the log for `log_timeout` ends the wait earlier, and so does the end of the engine.
    """
    ending = asyncio.ensure_future(engine.ended())
    loading = asyncio.ensure_future(_Loading(model, log, ask, began).wait())
    try:
        await asyncio.wait({ending, loading}, return_when=asyncio.FIRST_COMPLETED)
        if loading.done() and loading.result() is not None:
            await asyncio.wait({ending}, timeout=AFTERMATH)
        if ending.done():  # whatever answered, it was not this engine, or is gone
            return failure_of(ending.result(), log.tail)
        return loading.result()
    finally:
        for task in (ending, loading):
            task.cancel()
        await asyncio.gather(ending, loading, return_exceptions=True)


class Unready(Exception):
    """The engine is not ready now; the text says why."""


class _Broken(Exception):
    """The engine has the model and cannot answer."""


class _Loading:
    """One wait; `_state` says what the engine was like of late."""

    def __init__(self, model: Model, log: Log, ask: Ask, began: float) -> None:
        self._model = model
        self._log = log
        self._ask = ask
        self._began = began
        self._until = began + model.ready_timeout
        self._state = "it has not been asked"

    async def wait(self) -> Failure | None:
        pause = FIRST
        while (late := self._late()) is None:
            try:
                await self._try()
            except Unready as error:
                self._state = str(error)
            except _Broken as error:
                return failure("runtime_not_ready", f"the engine fails at its warm-up: {error}")
            else:
                return None
            await asyncio.sleep(min(pause, self._left()))
            pause = min(pause * GROWTH, LONGEST)
        return failure("runtime_timeout", f"{late}; {self._state}")

    def _left(self) -> float:
        """Seconds until the wait ends, if no further line comes."""
        return max(min(self._until, self._silent_until()) - monotonic(), 0)

    def _silent_until(self) -> float:
        # An engine that has been up for long may print nothing: only this wait counts.
        return max(self._log.latest, self._began) + self._model.log_timeout

    def _late(self) -> str | None:
        now = monotonic()
        if now >= self._until:
            return f"the engine is not ready after {self._model.ready_timeout:g} s"
        if now >= self._silent_until():
            return f"the engine has printed nothing for {self._model.log_timeout:g} s"
        return None

    async def _try(self) -> None:
        """Raises Unready, _Broken."""
        names = await self._models()
        if self._model.name not in names:
            raise Unready(f"{MODELS} names {', '.join(names[:3])!r}, not {self._model.name!r}")
        refusal = await warm_up(self._model, self._ask)
        if refusal is not None:
            raise _Broken(refusal)

    async def _models(self) -> list[str]:
        """The names of the models that the engine has. Raises Unready."""
        try:
            answer = await self._ask("GET", MODELS, b"", min(ANSWER, max(self._left(), FIRST)))
            if answer.status == 200:
                listed = msgspec.json.decode(answer.body, type=_Listed)
                return [one.id for one in listed.data]
        except GatewayError as error:
            raise Unready(f"{MODELS}: {error}") from None
        except NOT_JSON:
            raise Unready(f"{MODELS}: it answers what is no list of models") from None
        raise Unready(f"{MODELS}: it answers {answer.status}")


async def warm_up(model: Model, ask: Ask) -> str | None:
    """Generate one token; return None, or why the engine cannot. Raises Unready."""
    refusals = []
    for path, body in WARMUPS:
        refusal = await _generate(model, ask, path, body)
        if refusal is None:
            return None
        refusals.append(refusal)
    return "; ".join(refusals)


async def _generate(model: Model, ask: Ask, path: str, body: Mapping[str, object]) -> str | None:
    wanted = {"model": model.name, **body, "max_tokens": 1, "temperature": 0}
    try:
        answer = await ask("POST", path, msgspec.json.encode(wanted), model.warmup)
    except UpstreamTimeout as error:
        return f"{path}: {error}"
    except GatewayError as error:
        raise Unready(f"{path}: {error}") from None
    if answer.status == 503:
        raise Unready(f"{path}: it answers 503")
    return None if answer.status == 200 else f"{path}: {_refusal(answer)}"


class _Named(msgspec.Struct):
    id: str


class _Listed(msgspec.Struct):
    data: list[_Named]


class _Refused(msgspec.Struct):
    error: object = None


def _refusal(answer: WorkerAnswer) -> str:
    try:
        said = error_message(msgspec.json.decode(answer.body, type=_Refused).error)
    except NOT_JSON:
        said = answer.body[:LONGEST_ANSWER].decode(errors="replace")
    return f"it answers {answer.status} {said or ''}".strip()
