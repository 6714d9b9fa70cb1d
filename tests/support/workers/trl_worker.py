"""A worker as TRL's server is one, old generation or new, that a test can make fail."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import msgspec
import pytest_asyncio
from msgspec.structs import replace
from support.paths import CONFIGS
from support.records.vllm_recordings import RecordedExchange, load

from gateway.config import Config, PluginEntry, Probes, StorageSettings
from gateway.config import load as load_config
from gateway.testing import (
    NO_PROBES,
    Live,
    ScriptedConnection,
    ScriptedWorker,
    answer_of,
    live,
)

FILE = CONFIGS / "trl.yaml"

RECORDED = {
    ("POST", "/generate/"): "trl_legacy/generate_ids_n2",
    ("POST", "/chat/"): "trl_legacy/chat",
    ("POST", "/get_sequence_logprobs/"): "trl_legacy/seq_logprobs_json",
    ("GET", "/health/"): "trl_legacy/health",
    ("GET", "/get_world_size/"): "trl_legacy/world",
    ("POST", "/reset_prefix_cache/"): "trl_legacy/reset_prefix_cache",
    ("POST", "/close_communicator/"): "trl_legacy/close_communicator",
    ("POST", "/batch_update_named_params/"): "trl_legacy/batch_update",
    ("GET", "/get_world_size"): "trl_client/02_get_get_world_size",
    ("POST", "/start_weight_update"): "trl_client/12_post_start_weight_update",
    ("POST", "/finish_weight_update"): "trl_client/13_post_finish_weight_update",
    ("POST", "/reset_prefix_cache"): "trl_client/09_post_reset_prefix_cache",
    ("POST", "/v1/completions"): "trl_client/05_post_v1_completions",
    ("POST", "/update_weight_version"): "reload/r3_version",
    ("POST", "/pause"): "reload/r1_pause",
}
REQUEST = re.compile(rb"(?P<method>[A-Z]+) (?P<target>\S+) ")
GENERATING = frozenset({"/generate/", "/chat/", "/v1/completions"})

OK = answer_of(b'{"message":"done"}')


class Request(msgspec.Struct, frozen=True):
    method: str
    target: str
    body: bytes


class TrlWorker:
    """`requests` are those it read, in order; `failing` says by path what it answers instead.

    A status, or None for no answer at all. `before` is awaited before each answer.
    `died` tells that one came within an update, as that kills a real engine.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.failing: dict[str, int | None] = {}
        self.before: Callable[[], Awaitable[object]] | None = None
        self.died = False
        self.server = ScriptedWorker(self._script)
        self._updating = False
        self._answers: dict[str, bytes] = {}

    @property
    def url(self) -> str:
        return self.server.url

    def plays(self, exchange: RecordedExchange) -> None:
        """From now on the answer to the exchange's path is the one that was recorded."""
        self._answers[exchange.path] = answer_of(exchange.body, status=f"{exchange.status} Said")

    def says(self, path: str, body: bytes) -> None:
        self._answers[path] = answer_of(body)

    def told(self, *paths: str) -> int:
        """How many requests to these paths it has read."""
        return sum(request.target.partition("?")[0] in paths for request in self.requests)

    async def _script(self, connection: ScriptedConnection) -> None:
        while True:
            request = _read(await connection.read_request())
            self.requests.append(request)
            path = request.target.partition("?")[0]
            answer = self._answer(request, path)
            if path in GENERATING:
                self.died = self.died or self._updating
            if self.before is not None:
                await self.before()
            if answer is None:
                await connection.wait_closed()
                return
            await connection.write(answer)

    def _answer(self, request: Request, path: str) -> bytes | None:
        if path in self.failing:
            status = self.failing[path]
            return None if status is None else answer_of(b'{"detail":"no"}', status=f"{status} No")
        if path in ("/start_weight_update", "/finish_weight_update"):
            self._updating = path == "/start_weight_update"
        if path in self._answers:
            return self._answers[path]
        name = RECORDED.get((request.method, path))
        if name is None:
            return OK
        found = load()[name]
        return answer_of(found.body, status=f"{found.status} Said")


class Fleet:
    """The fixture `fleet`: some of these workers, and gateways before them."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self.workers: list[TrlWorker] = []
        self._stack = stack

    async def start(self, count: int) -> list[TrlWorker]:
        """So many workers, in the order in which the gateways have them."""
        for _ in range(count):
            self.workers.append(TrlWorker())
            await self._stack.enter_async_context(self.workers[-1].server)
        return self.workers

    async def gateway(
        self, *plugins: PluginEntry, probes: Probes = NO_PROBES, **environ: str
    ) -> Live:
        """As the shipped file and `environ` make it, but for its probes; with `plugins`, these."""
        backends = ",".join(worker.url for worker in self.workers)
        config = shipped(**{"BACKENDS": backends, **environ})
        config = replace(config, probes=probes, storage=StorageSettings(path=":memory:"))
        if plugins:
            config = replace(config, plugins=plugins)
        return await self._stack.enter_async_context(live(config))


def shipped(**environ: str) -> Config:
    """configs/trl.yaml with these variables."""
    return load_config(FILE, environ)


@pytest_asyncio.fixture
async def fleet() -> AsyncIterator[Fleet]:
    load()  # it takes longer than some test waits for an answer
    async with AsyncExitStack() as stack:
        yield Fleet(stack)


def _read(raw: bytes) -> Request:
    head, _, body = raw.partition(b"\r\n\r\n")
    found = REQUEST.match(head)
    assert found is not None
    return Request(found["method"].decode(), found["target"].decode(), body)
