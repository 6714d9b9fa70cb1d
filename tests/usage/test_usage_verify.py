"""`gateway usage verify` finds what differs from the traces, and nothing where all is well."""

import asyncio
import json
import re
import shutil
import sqlite3
from collections.abc import Awaitable
from contextlib import closing, suppress
from pathlib import Path

import httpx
import pytest
from gateway_plugins.usage.journal.file import Journal
from gateway_plugins.usage.ledger.sums import sum_some
from support.gateways.capturing import chat
from usage.test_usage import CHAT, ask, first_bytes, over

from gateway.cli import main
from gateway.config import Config, StorageSettings, Worker
from gateway.simulator import Simulator
from gateway.storage.sqlite.file import open_for_writing
from gateway.testing import (
    DONE,
    NO_PROBES,
    GatewayFor,
    Live,
    ScriptedConnection,
    ScriptedWorker,
    answer_of,
    entry,
    live,
    sse,
)

Said = tuple[int | str | None, str, str]

PLUGINS = ("usage.test_usage:Badges", "sessions", "trace_capture", "usage")

BROKEN = ("500", "reset-before", "reset:3", "close:2", "truncate", "error-event:2", "abort:2")


class Command:
    """`gateway usage` on one file, configured as its gateway is."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path = folder / "gateway.db"
        self._config = folder / "gateway.yaml"
        self._config.write_text(
            f"storage: {{path: {self.path}}}\nplugins: [{', '.join(PLUGINS)}]\n"
        )
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Said:
        with pytest.raises(SystemExit) as stopped:
            main(["usage", *arguments, "--config", str(self._config)])
        printed = self._capsys.readouterr()
        return stopped.value.code or 0, printed.out, printed.err


@pytest.fixture
def usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(tmp_path, capsys)


@pytest.fixture(scope="module")
def all_kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of calls of all kinds."""
    path = tmp_path_factory.mktemp("usage") / "gateway.db"
    asyncio.run(record(path))
    return path


async def record(path: Path) -> None:
    async with Simulator() as simulator:
        workers = (Worker(url=simulator.url, worker_id="w"),)
        plugins = tuple(map(entry, PLUGINS))
        config = Config(
            plugins=plugins,
            storage=StorageSettings(path=str(path)),
            workers=workers,
            probes=NO_PROBES,
        )
        async with live(config) as running:
            await fill(running)


async def fill(running: Live) -> None:
    for badge in ("ada", "bob eval"):
        for stream in (False, True):
            for _ in range(2):
                await ask(running, badge, max_tokens=4, stream=stream)
            await ask(running, badge, n=2, max_tokens=3, stream=stream)
            for fault in BROKEN:
                await try_to(ask(running, badge, sim=fault, max_tokens=9, stream=stream))
            await completions(running, badge, stream)
    await ask(running, "")
    await ask(running, "eve monitor")
    await ask(running, "ada", model="none")
    await leave(running)


async def try_to(asking: Awaitable[httpx.Response]) -> None:
    with suppress(httpx.TransportError):
        await asking


async def completions(running: Live, badge: str, stream: bool) -> None:
    body = {"model": "sim", "prompt": ["Hi", "Ho"], "n": 2, "max_tokens": 3, "stream": stream}
    headers = {"authorization": badge}
    await running.client.post("/v1/completions", json=body, headers=headers)


async def leave(running: Live) -> None:
    """In the middle of a stream."""
    headers = {"authorization": "ada", "x-sim-itl": "0.002"}
    body = chat(stream=True, max_tokens=2000, ignore_eos=True)
    async with running.client.stream("POST", CHAT, json=body, headers=headers) as answer:
        await first_bytes(answer.aiter_bytes(), 2000)
    await over(running)


def test_usage_verify_says_what_it_compared_if_ledger_and_traces_agree(
    usage: Command, all_kinds: Path
) -> None:
    shutil.copy(all_kinds, usage.path)
    status, out, err = usage("verify")
    assert (status, out) == (0, "")
    found = re.fullmatch(
        r"ok: (\d+) traces compared with (\d+) calls in the ledger, (\d+) sums of days and (\d+) "
        r"totals with these calls; 0 calls in flight\n",
        err,
    )
    assert found is not None
    traces, calls, *sums = map(int, found.groups())
    assert 40 < traces <= calls
    assert all(sums)


def test_usage_verify_reports_calls_that_only_the_journal_of_a_dead_gateway_has(
    usage: Command, all_kinds: Path
) -> None:
    shutil.copy(all_kinds, usage.path)
    journal = Journal(usage.path, 10)
    slot = journal.begin(b"\1" * 16, 1e9, 5, "ada", "sim", "realtime")
    assert slot is not None
    status, out, err = usage("verify")
    assert (status, out) == (0, "")
    assert err.endswith("; 1 calls in flight\n")
    [path] = usage.path.parent.glob("*-calls-*")
    content = path.read_bytes()
    journal.end(slot)
    journal.close()
    path.write_bytes(content)
    status, out, err = usage("verify")
    assert status == 1
    assert out.startswith(f"call {'01' * 16}: is in {path.name}, whose gateway died, and is not")
    assert err.startswith("differences: 1: ")


TAMPERED = {
    "UPDATE usage_calls SET completion_tokens = completion_tokens + 1 WHERE id = :id": (
        "completion_tokens: 4 by its trace, 5 counted"
    ),
    "UPDATE usage_calls SET key = 'eve' WHERE id = :id": "key: 'ada' by its trace, 'eve' counted",
    "UPDATE usage_calls SET model = 'large' WHERE id = :id": "model: 'sim' by its trace",
    "UPDATE usage_calls SET worker = 'v' WHERE id = :id": "worker: 'w' by its trace, 'v' counted",
    "UPDATE usage_calls SET outcome = 2 WHERE id = :id": "outcome: 'success' by its trace, 'abort'",
    "UPDATE usage_calls SET counted = 1 WHERE id = :id": "counted: False by its trace, True",
    "UPDATE usage_calls SET completion_tokens = 4000 WHERE counted": "by its trace, 4000 counted",
    "UPDATE usage_calls SET counted = 0": "counted: True by its trace, False counted",
    "DELETE FROM usage_calls WHERE id = :id": "has a trace, and is not counted",
    "UPDATE usage_sums SET requests = requests + 1": ": only in the ledger: requests ",
    "UPDATE usage_sums SET aborts = aborts + 1": "total, key 'ada', model 'sim', worker 'w'",
    "DELETE FROM usage_sums WHERE key = 'bob'": "key 'bob', model 'sim', worker 'w'",
}


@pytest.mark.parametrize(("statement", "said"), TAMPERED.items())
def test_usage_verify_prints_each_difference(
    usage: Command, all_kinds: Path, statement: str, said: str
) -> None:
    shutil.copy(all_kinds, usage.path)
    with closing(open_for_writing(usage.path, "process", [])) as db:
        [(trace_id,)] = db.select("SELECT id FROM usage_calls LIMIT 1 OFFSET 1")
        sum_some(db)
        db.execute(statement, {"id": trace_id})
    status, out, _ = usage("verify")
    assert status == 1
    assert said in out
    assert ":id" not in statement or trace_id.hex() in out


def test_usage_verify_ignores_calls_deleted_by_age(usage: Command, all_kinds: Path) -> None:
    shutil.copy(all_kinds, usage.path)
    with closing(open_for_writing(usage.path, "process", [])) as db:
        sum_some(db)
        db.execute("INSERT INTO usage_marks (name, value) VALUES ('calls', 20990101)")
        db.execute("DELETE FROM usage_calls WHERE number BETWEEN 2 AND 20")
    assert usage("verify")[:2] == (0, "")
    with closing(sqlite3.connect(usage.path)) as db:
        db.execute("UPDATE usage_sums SET requests = 1")
        db.commit()
    status, out, _ = usage("verify")
    assert status == 1
    assert "total, key 'ada', model 'sim', worker 'w', source 'realtime': 1 calls counted" in out


USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
MESSAGE = {"input_tokens": 3, "cache_read_input_tokens": 5, "output_tokens": 1}
SAID = {"choices": [{"index": 0, "delta": {"content": "Hi"}}]}
SAMPLED = {"choices": [{"index": 0, "delta": {"content": "Hi"}, "token_ids": [5, 7, 9]}]}

FIRST = {"index": 0, "text": "Hi", "token_ids": [5], "prompt_token_ids": [1, 2, 3]}
"""Of two choices for one prompt."""

ODD = [
    ("/v1/messages", {"type": "message", "content": [], "usage": MESSAGE}),
    (
        "/v1/messages",
        sse(
            {"type": "message_start", "message": {"usage": MESSAGE}},
            {"type": "content_block_delta", "delta": {"text": "Hi"}},
            {"type": "message_delta", "usage": {"output_tokens": 6}},
            {"type": "message_stop"},
        ),
    ),
    ("/v1/messages", sse({"type": "content_block_delta", "delta": {"text": "Hi"}})),
    ("/v1/responses", {"object": "response", "output": [], "usage": MESSAGE}),
    ("/v1/responses", sse({"type": "response.completed", "response": {"usage": MESSAGE}})),
    ("/v1/responses", sse({"type": "response.output_text.delta", "delta": "Hi"})),
    ("/v1/embeddings", {"object": "list", "data": [], "usage": USAGE}),
    ("/v1/rerank", {"results": []}),
    ("/v1/audio/speech", b"\x00\xff"),
    (CHAT, {"choices": [], "usage": {"prompt_tokens": -4, "completion_tokens": 1 << 40}}),
    (CHAT, {"choices": [], "usage": {"prompt_tokens": "many"}}),
    (CHAT, {"choices": [], "usage": None}),
    (CHAT, {"choices": [], "usage": {}}),
    (CHAT, []),
    (CHAT, sse(SAID)),
    (CHAT, sse(SAMPLED, SAID)),
    (CHAT, sse(SAMPLED) + b"data: " + sse(SAMPLED)[6:-2]),
    (CHAT, sse(SAMPLED) + DONE),
    (CHAT, sse({**SAID, "usage": USAGE}, SAID) + DONE),
    (CHAT, sse(SAID, {"choices": [], "usage": {"completion_tokens": 3}}) + DONE),
    (CHAT, sse(SAID, {"choices": [], "usage": {"prompt_tokens": "x"}}) + DONE),
    (CHAT, sse(SAID, {"error": {"message": "it broke"}}) + DONE),
    ("/v1/completions", sse({"choices": [FIRST, {**FIRST, "index": 1}]})),
    (CHAT, b""),
]


UNTRACED = ("/v1/embeddings", "/v1/rerank")
"""Paths of calls that sample nothing: they are billed, and leave no trace."""


@pytest.mark.parametrize("kept", [1.0, 0.6])
async def test_usage_counts_odd_responses_of_all_apis_as_traces_record_them(
    gateway_for: GatewayFor, usage: Command, kept: float
) -> None:
    """Whole, and broken off after that part of them."""
    answers = iter([wire(answer) for _, answer in ODD])

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        answer = next(answers)
        await connection.write(answer[: int(len(answer) * kept)])

    async with ScriptedWorker(script) as worker:
        running = await gateway_for(
            *PLUGINS, workers=[worker.url], storage=StorageSettings(path=str(usage.path))
        )
        for path, answer in ODD:
            body = chat(stream=isinstance(answer, bytes), n=2)
            asking = running.client.post(path, json=body, headers={"authorization": "ada"})
            await try_to(asking)
        await over(running)
        status, out, err = usage("verify")
        assert (status, out) == (0, "")
        traced = sum(path not in UNTRACED for path, _ in ODD)
        assert err.startswith(f"ok: {traced} traces compared with {len(ODD)} calls")


def wire(answer: bytes | object) -> bytes:
    if not isinstance(answer, bytes):
        return answer_of(json.dumps(answer).encode())
    return answer_of(answer, content_type="text/event-stream" if answer else "audio/wav")
