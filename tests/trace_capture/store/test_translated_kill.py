"""A gateway that is killed has the trace of every message and response read to its end."""

import asyncio
import json
from pathlib import Path
from random import Random
from signal import SIGKILL
from typing import Any

import msgspec
import pytest
from accounting.tap import Said
from support.callers.raw_client import CutShort, RawAnswer, RawClient
from support.gateways.capturing import CAPTURE
from support.gateways.serving_process import Process, serving
from trace_capture.store.test_capture_kill import JSON_BODY, SLOW_DISK, WORDS, check_file
from trace_capture.tapped.conduct import traces_of
from trace_capture.tapped.heard import is_ended, text_of

from gateway import Trace
from gateway.simulator import Simulator, SimulatorConfig

CALLERS = 12
KILLED_AT = 40
"""Answers that have been read to their ends."""

APIS = {"messages": ("messages", "max_tokens"), "responses": ("input", "max_output_tokens")}
"""The names of the turns and of the limit in the requests of each."""

NAMED = (
    "sessions",
    "gateway_plugins.stored_responses:StoredResponses",
    "gateway_plugins.translate:Translate",
    CAPTURE,
)
PLUGINS = [word for plugin in NAMED for word in ("--plugin", plugin)]


class Asked(msgspec.Struct):
    """A call, and what its caller had read of the answer when the gateway died."""

    call_id: str
    said: Said = msgspec.field(default_factory=Said)


class Load:
    """Callers of one API that go on asking until their gateway is gone."""

    def __init__(self, api: str, process: Process) -> None:
        self.calls: list[Asked] = []
        self._api = api
        self._process = process
        self._chance = Random(api)
        self._left = KILLED_AT

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(CALLERS):
                group.create_task(self._ask_on(f"s{number}"))

    async def _ask_on(self, session: str) -> None:
        try:
            async with self._process.client() as client:
                while True:
                    asked = Asked(f"{session}.{len(self.calls)}")
                    self.calls.append(asked)
                    await self._ask(client, session, asked)
        except (CutShort, OSError, asyncio.IncompleteReadError):
            return  # it was killed

    async def _ask(self, client: RawClient, session: str, asked: Asked) -> None:
        headers = [JSON_BODY, (b"x-request-id", asked.call_id.encode())]
        target = f"/sessions/{session}/v1/{self._api}"
        body = json.dumps(self._request()).encode()
        try:
            answer = await client.ask("POST", target, headers, body)
        except CutShort as short:
            self._take(asked, short.answer, whole=False)
            raise
        self._take(asked, answer, whole=True)

    def _request(self) -> dict[str, Any]:
        turns, limit = APIS[self._api]
        content = " ".join(self._chance.choices(WORDS, k=5))
        return {
            "model": "sim",
            turns: [{"role": "user", "content": content}],
            limit: self._chance.randint(1, 12),
            "stream": self._chance.random() < 0.6,
        }

    def _take(self, asked: Asked, answer: RawAnswer, *, whole: bool) -> None:
        assert answer.status == 200
        headers = {name.lower(): value for name, value in answer.headers}
        asked.said = Said(answer.status, headers, bytearray(answer.body), whole)
        if is_ended(self._api, asked.said):
            self._left -= 1
            if not self._left:
                self._process.kill(SIGKILL)


@pytest.mark.parametrize("api", APIS)
async def test_killed_gateway_has_a_trace_of_every_translated_call_read_to_its_end(
    tmp_path: Path, api: str
) -> None:
    file = tmp_path / "traces.db"
    settings = {"storage__path": str(file)}
    async with Simulator(SimulatorConfig(itl=0.001)) as simulator:
        async with serving(simulator.url, *PLUGINS, *SLOW_DISK, **settings) as process:
            load = Load(api, process)
            await load.run()
    check_file(file)
    traces = {trace.call_id: trace for trace in traces_of(file)}
    ended = [asked for asked in load.calls if is_ended(api, asked.said)]
    assert KILLED_AT <= len(ended) < len(load.calls), "it is killed in the middle of something"
    for asked in ended:
        check(api, asked, traces.get(asked.call_id))


def check(api: str, asked: Asked, trace: Trace | None) -> None:
    assert trace is not None, f"{asked.call_id} has been read and has no trace"
    assert (trace.verdict, trace.translated_from) == ("COMPLETE", api)
    assert trace.completion_token_ids
    assert text_of(api, asked.said) == trace.response_message["content"]
