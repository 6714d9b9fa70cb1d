"""The development endpoints of vLLM: pausing, weights and their versions.

They exist only with `SimulatorConfig(development=True)`, as vLLM's do with
`VLLM_SERVER_DEV_MODE=1`. Other weights sample other tokens, the same ones each time they are
loaded, so that a response shows which weights produced it. As in vLLM, a generation step between
start and finish of a weight transfer kills the engine.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.simulator.caller import CallerWatch, read_body
from gateway.simulator.config import SimulatorConfig
from gateway.simulator.engine.prefix_cache import PrefixCache
from gateway.simulator.input.refusals import Refused, bad_schema, crashed, missing, parse

Endpoint = Callable[[Request], Awaitable[Response]]

MODES = ("abort", "wait", "keep")

ASLEEP = ("weights", "kv_cache")
"""What an engine gives away when it falls asleep, and gets back when it is woken, in parts."""

LOST = "lost"
"""Stands for the weights of an engine that has slept at level 2, until they are loaded anew."""


class Running:
    """One call in generation; `aborted`: it ends with the next token."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.aborted = False


class Control:
    """State of one engine that the endpoints change and its generations read.

    `weights` is "" for the weights that the engine was started with. `paused` is the pause mode, or
    None. `asleep` is what it has given away, `cache` what it keeps of prompts. `buried` is called
    after a health check has reported that the engine is dead.
    """

    def __init__(self) -> None:
        self.weights = ""
        self.version = "default"
        self.asleep: set[str] = set()
        self.paused: str | None = None
        self.transferring = False
        self.dead = False
        self.buried: Callable[[], None] = lambda: None
        self.cache = PrefixCache()
        self._running: set[Running] = set()
        self._resumed = asyncio.Event()
        self._resumed.set()
        self._idle = asyncio.Event()

    async def bury(self) -> None:
        self.buried()

    async def admitted(self, caller: CallerWatch) -> None:
        """Wait while the engine is paused. Raises CallerGone."""
        while self.paused is not None and not self.dead:
            await caller.until(self._resumed)

    @contextmanager
    def running(self, name: str) -> Iterator[Running]:
        call = Running(name)
        self._running.add(call)
        try:
            yield call
        finally:
            self._running.discard(call)
            if not self._running:
                self._idle.set()

    async def may_step(self, call: Running, caller: CallerWatch) -> None:
        """Wait while generations are frozen. Raises Refused if the engine dies, or is dead."""
        while self.paused == "keep" and not (call.aborted or self.dead):
            await caller.until(self._resumed)
        if self.transferring:
            self.dead = True
            self._resumed.set()
        if self.dead:
            raise crashed()

    async def pause(self, mode: str) -> None:
        """Pause. Returns at once, except in mode "wait": once all running calls have ended."""
        self.paused = mode
        self._resumed.clear()
        if mode == "abort":
            self.abort(())
        while mode == "wait" and self._running and self.paused is not None:
            self._idle.clear()
            await self._idle.wait()

    def resume(self) -> None:
        self.paused = None
        self._resumed.set()

    @property
    def sleeping(self) -> bool:
        return self.paused is not None or bool(self.asleep)

    async def sleep(self, level: int, mode: str) -> None:
        """Pause, and fall asleep; at level 2 the weights are lost, at level 0 nothing is."""
        await self.pause(mode)
        if level > 0 and "weights" not in self.asleep:
            self.asleep.update(ASLEEP)
            self.weights = LOST if level > 1 else self.weights

    def wake(self, tags: list[str]) -> bool:
        """Get back what `tags` name, or all. Resumes, and returns True, once it is whole again."""
        wanted = {tag for tag in tags if tag != "scheduling"} if tags else self.asleep
        if wanted <= self.asleep:
            self.asleep -= wanted
        if not self.asleep:
            self.resume()
        return not self.asleep

    def abort(self, names: tuple[str, ...]) -> int:
        """Abort the calls of these names, or all if none is given.

        Returns the number of calls requested, as vLLM counts them, even if some do not run.
        """
        for call in self._running:
            call.aborted = call.aborted or not names or call.name in names
        return len(names) or len(self._running)


class _Rpc(msgspec.Struct):
    method: str | None = None
    kwargs: dict[str, Any] = {}


class _Abort(msgspec.Struct):
    request_ids: list[str] = []


class _NewVersion(msgspec.Struct):
    new_version: str


class _Init(msgspec.Struct):
    init_info: dict[str, Any]


class _Update(msgspec.Struct):
    update_info: dict[str, Any]


class _Finish(msgspec.Struct):
    weight_version: str | None = None


def routes(config: SimulatorConfig, control: Control) -> list[Route]:
    """Return the routes of the development endpoints, for one simulator."""
    endpoints = _Endpoints(config, control)
    gets = (endpoints.is_paused, endpoints.is_sleeping, endpoints.weight_info)
    posts = (
        endpoints.pause,
        endpoints.resume,
        endpoints.reset_prefix_cache,
        endpoints.sleep,
        endpoints.wake_up,
        endpoints.update_weight_version,
        endpoints.init_weight_transfer_engine,
        endpoints.start_weight_update,
        endpoints.update_weights,
        endpoints.finish_weight_update,
        endpoints.collective_rpc,
        endpoints.abort_requests,
    )
    named = ((one, method) for method, all_ in (("GET", gets), ("POST", posts)) for one in all_)
    return [
        Route("/get_world_size", endpoints.get_world_size),
        *(Route(f"/{one.__name__}", endpoints.alive(one), methods=[how]) for one, how in named),
    ]


class _Endpoints:
    """The handlers; each is named as its path."""

    def __init__(self, config: SimulatorConfig, control: Control) -> None:
        self._config = config
        self._control = control

    def alive(self, endpoint: Endpoint) -> Endpoint:
        async def checked(request: Request) -> Response:
            if self._control.dead:
                raise crashed()
            return await endpoint(request)

        return checked

    async def get_world_size(self, _: Request) -> Response:
        return JSONResponse({"world_size": 1})

    async def pause(self, request: Request) -> Response:
        await self._control.pause(_mode(request))
        return JSONResponse({"status": "paused"})

    async def resume(self, _: Request) -> Response:
        self._control.resume()
        return JSONResponse({"status": "resumed"})

    async def is_paused(self, _: Request) -> Response:
        return JSONResponse({"is_paused": self._control.paused is not None})

    async def reset_prefix_cache(self, _: Request) -> Response:
        self._control.cache.clear()
        return JSONResponse({"success": True})

    async def sleep(self, request: Request) -> Response:
        level = _level(request)
        await self._control.sleep(level, _mode(request))
        return JSONResponse({"status": "sleeping", "level": level})

    async def wake_up(self, request: Request) -> Response:
        tags = request.query_params.getlist("tags")
        status = "awake" if self._control.wake(tags) else "sleeping"
        return JSONResponse({"status": status, "tags": tags or None})

    async def is_sleeping(self, _: Request) -> Response:
        return JSONResponse({"is_sleeping": self._control.sleeping})

    async def weight_info(self, _: Request) -> Response:
        return JSONResponse({"weight_version": self._control.version})

    async def update_weight_version(self, request: Request) -> Response:
        asked = parse(await read_body(request.receive), _NewVersion)
        self._control.version = asked.new_version
        return JSONResponse({"success": True, "new_version": asked.new_version})

    async def init_weight_transfer_engine(self, request: Request) -> Response:
        parse(await read_body(request.receive), _Init)
        return JSONResponse({"message": "Weight transfer initialized"})

    async def start_weight_update(self, _: Request) -> Response:
        self._control.transferring = True
        return JSONResponse({"message": "Weight update started"})

    async def update_weights(self, request: Request) -> Response:
        body = await read_body(request.receive)
        if not body:
            raise missing("body.update_info", None)
        asked = parse(body, _Update)
        if not self._control.transferring:
            raise _failed("start_weight_update must be called before update_weights.")
        self._control.weights = msgspec.json.encode(asked.update_info, order="sorted").decode()
        return JSONResponse({"message": "Weights updated"})

    async def finish_weight_update(self, request: Request) -> Response:
        asked = parse(await read_body(request.receive) or b"{}", _Finish)
        if not self._control.transferring:
            raise _failed("finish_weight_update called without a matching start_weight_update.")
        self._control.transferring = False
        self._control.version = asked.weight_version or self._control.version
        return JSONResponse({"message": "Weight update finished"})

    async def collective_rpc(self, request: Request) -> Response:
        asked = parse(await read_body(request.receive), _Rpc)
        if asked.method is None:
            raise Refused(400, "Missing 'method' in request body", "Bad Request")
        if asked.method != "reload_weights":
            raise _failed(f"'CPUWorker' object has no attribute '{asked.method}'")
        path = str(asked.kwargs.get("weights_path", self._config.model))
        self._control.weights = "" if path == self._config.model else path
        return JSONResponse({"results": [None]})

    async def abort_requests(self, request: Request) -> Response:
        asked = parse(await read_body(request.receive) or b"{}", _Abort)
        count = self._control.abort(tuple(asked.request_ids))
        return JSONResponse({"status": "aborted", "aborted": count})


def _mode(request: Request) -> str:
    """Return how running calls end. Raises Refused."""
    mode = request.query_params.get("mode", "abort")
    if mode not in MODES:
        expected = "'abort', 'wait' or 'keep'"
        says = f"Input should be {expected}"
        raise bad_schema("literal_error", "query.mode", says, mode, {"expected": expected})
    return mode


def _level(request: Request) -> int:
    """Return how deeply to sleep. Raises Refused."""
    text = request.query_params.get("level", "1")
    try:
        level = int(text)
    except ValueError:
        says = "Input should be a valid integer, unable to parse string as an integer"
        raise bad_schema("int_parsing", "query.level", says, text) from None
    if level < 0:
        says = "Input should be greater than or equal to 0"
        raise bad_schema("greater_than_equal", "query.level", says, text, {"ge": 0})
    if level > 2:
        says = "Input should be less than or equal to 2"
        raise bad_schema("less_than_equal", "query.level", says, text, {"le": 2})
    return level


def _failed(says: str) -> Refused:
    message = (
        f"Call to collective_rpc method failed: Worker failed with error '{says}', "
        "please check the stack trace above for the root cause"
    )
    return Refused(500, message, "InternalServerError")
