"""Realtime calls at a cold model and at a hot one: what reaches the engine, and what the caller."""

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import Self

import pytest
from support.callers.raw_client import RawAnswer, RawClient
from support.gateways.event_loop import Stage
from support.plugins.recording_plugin import until
from support.records.vllm_recordings import OTHER_ENGINES, load
from support.runtime.boxes import CHAT, box, phases, starts
from support.runtime.noting_engine import Note, noted, noting
from support.workers.playing import pairs

from gateway.config import MEMORY, Config, PluginEntry, StorageSettings
from gateway.testing import NO_PROBES, Live, entry, live

COMPLETIONS = "/v1/completions"

GENERATE = (CHAT, COMPLETIONS, "/v1/messages", "/v1/responses", "/v1/embeddings")

HELLO = b'{"model":"tiny","messages":[{"role":"user","content":"Hello"}]}'

STREAM = b'{"model":"tiny","messages":[],"stream":true}'

ODD = {
    "nothing to inject": (CHAT, HELLO),
    "stop as a string": (CHAT, b'{"model":"tiny","messages":[],"stop":"."}'),
    "stop null": (CHAT, b'{"model":"tiny", "messages":[], "stop" : null}'),
    "prompts": (COMPLETIONS, b'{"model":"tiny","prompt":["one","two"],"n":2}'),
    "token ids": (COMPLETIONS, b'{"model":"tiny","prompt":[1,2],"echo":true,"max_tokens":0}'),
    "lists of token ids": (COMPLETIONS, b'{"model":"tiny","prompt":[[1,2],[3]],"logprobs":1}'),
    "unknown fields": (CHAT, b'{"model":"tiny","guided_json":{},"odd":[1e400,"\\ud800"]}'),
    "a field twice": (CHAT, b'{"model":"tiny","messages":[],"seed":1,"seed":2}'),
}
"""Bodies that a gateway which reads and rewrites them would refuse or change."""


class Request:
    """A request, known to the engine by its `name`."""

    def __init__(
        self, name: str, body: bytes, path: str = CHAT, headers: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.body = body
        self.path = path
        given = {"content-type": "application/json", **(headers or {}), "x-name": name}
        self.headers = pairs(list(given.items()))

    async def ask(self, live: Live) -> RawAnswer:
        async with RawClient(*live.server.address) as client:
            return await client.ask("POST", self.path, self.headers, self.body)


REQUESTS = [Request(name, body, path) for name, (path, body) in ODD.items()] + [
    Request(name, exchange.request_body, exchange.path, dict(exchange.request_headers))
    for name, exchange in {**load(), **load(OTHER_ENGINES)}.items()
    if exchange.method == "POST" and exchange.path in GENERATE
]


class Engines(Stage):
    """A gateway whose model is cold when all REQUESTS come together; `answers` are to those."""

    def open(self, folder: Path) -> None:
        self.notes = folder / "notes"
        self.folder = folder
        self.live = self.enter(_gateway(box(folder, noting("tiny", self.notes))))
        self.answers = self.run(self.ask(*REQUESTS))

    async def ask(self, *requests: Request) -> list[RawAnswer]:
        return await asyncio.gather(*[request.ask(self.live) for request in requests])

    def arrived(self, name: str) -> list[Note]:
        return [note for note in noted(self.notes) if note.name == name]


@asynccontextmanager
async def _gateway(*plugins: PluginEntry) -> AsyncIterator[Live]:
    storage = StorageSettings(path=MEMORY)
    async with live(Config(plugins=plugins, probes=NO_PROBES, storage=storage)) as running:
        yield running


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    with Engines() as engines:
        engines.open(tmp_path_factory.mktemp("engines"))
        yield engines


class Rooms:
    """Counts which files of the plugin have functions that run in this thread during the block."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def __enter__(self) -> Self:
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _note(self, frame: FrameType, event: str, _: object) -> None:
        _, plugin, file = frame.f_code.co_filename.partition("gateway_plugins/runtime/")
        if plugin and event == "call":
            self.calls[file] += 1


def check(engines: Engines, answers: list[RawAnswer], which: int) -> None:
    """Each body has arrived as it was sent, or names a model that there is not."""
    bodies: dict[str, list[bytes]] = {}
    for note in noted(engines.notes):
        bodies.setdefault(note.name, []).append(note.body)
    for request, answer in zip(REQUESTS, answers, strict=True):
        if answer.status == 200:
            assert bodies[request.name][which] == request.body, request.name
        else:
            assert request.name not in bodies, request.name
            assert b"model_not_found" in answer.body, (request.name, answer)
    refused = sum(answer.status != 200 for answer in answers)
    assert refused < len(REQUESTS) / 5


def test_fault_2_1_every_recorded_body_reaches_a_cold_model_byte_for_byte(
    engines: Engines,
) -> None:
    assert phases(engines.live) == ["loading(tiny)", "hot(tiny)"]
    assert starts(engines.folder) == 1
    check(engines, engines.answers, 0)


def test_fault_2_1_every_recorded_body_reaches_a_hot_model_byte_for_byte(engines: Engines) -> None:
    check(engines, engines.run(engines.ask(*REQUESTS)), -1)


@pytest.mark.parametrize("name", ["nothing to inject", "token ids"])
def test_fault_2_2_no_default_is_injected(engines: Engines, name: str) -> None:
    arrived = engines.arrived(name)
    assert {note.body for note in arrived} == {ODD[name][1]}


@pytest.mark.parametrize(
    "name", ["stop as a string", "stop null", "prompts", "token ids", "lists of token ids"]
)
def test_fault_2_3_stop_and_prompts_may_have_every_form(engines: Engines, name: str) -> None:
    path, body = ODD[name]
    [answer] = engines.run(engines.ask(Request(f"{name}, hot", body, path)))
    assert answer.status == 200
    assert [note.body for note in engines.arrived(f"{name}, hot")] == [body]


def test_fault_2_10_engine_s_call_ends_with_its_caller_who_wants_no_stream(
    engines: Engines,
) -> None:
    async def leave() -> None:
        waiting = Request("leaves", HELLO, headers={"x-does": "wait"})
        call = asyncio.create_task(waiting.ask(engines.live))
        await until(lambda: len(engines.arrived("leaves")) == 1)
        call.cancel()
        await until(lambda: [note.left for note in engines.arrived("leaves")] == [False, True])
        await until(lambda: not engines.live.gateway.calls_in_flight)

    engines.run(leave())


def test_fault_2_10_stream_that_the_engine_refuses_has_its_status_and_body(
    engines: Engines,
) -> None:
    refused = Request("refused", STREAM, headers={"x-does": "refuse"})
    [answer] = engines.run(engines.ask(refused))
    assert (answer.status, answer.body) == (422, b'{"error":{"message":"too long","code":422}}')
    assert answer.value(b"content-type") == b"application/json"


def test_fault_2_12_call_asks_neither_the_driver_nor_the_engine_s_state(engines: Engines) -> None:
    rooms = Rooms()
    requests = [Request(f"measured {number}", HELLO) for number in range(20)]
    before = len(list(noted(engines.notes)))
    with rooms:
        answers = engines.run(engines.ask(*requests))
    assert {answer.status for answer in answers} == {200}
    later = list(noted(engines.notes))[before:]
    assert sorted(note.name for note in later) == sorted(one.name for one in requests)
    assert rooms.calls["__init__.py"] >= 20
    assert not [room for room in rooms.calls if room.startswith(("drivers", "loading"))]


@pytest.mark.parametrize("asked", [False, True])
async def test_fault_2_11_usage_chunk_reaches_only_callers_who_asked_for_it(
    tmp_path: Path, asked: bool
) -> None:
    notes = tmp_path / "notes"
    options = b',"stream_options":{"include_usage":true}}'
    body = STREAM.removesuffix(b"}") + (options if asked else b"}")
    async with _gateway(entry("usage"), box(tmp_path, noting("tiny", notes))) as running:
        answer = await Request("usage", body, headers={"x-does": "stream"}).ask(running)
    [note] = [note for note in noted(notes) if note.name == "usage"]
    assert b'"include_usage":true' in note.body
    assert (b'"usage":{' in answer.body.replace(b" ", b"")) is asked
    assert (b'"choices": []' in answer.body) is asked
    assert answer.body.endswith(b"data: [DONE]\n\n")
