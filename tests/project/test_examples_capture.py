"""The examples of capture hooks, each in a real gateway that captures."""

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
from project.test_examples import example
from support.gateways.capturing import call, capturing
from support.plugins.recording_plugin import until

from gateway.testing import GatewayFor, Live

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


async def traces_of(live: Live, session_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await live.client.get(f"/sessions/{session_id}/traces")).json()
    return found


@pytest.mark.parametrize("stream", [False, True])
async def test_own_jsonl_writes_a_line_per_choice_of_a_complete_trace(
    gateway_for: GatewayFor, tmp_path: Path, stream: bool
) -> None:
    file = tmp_path / "mine.jsonl"
    live = await capturing(gateway_for, tmp_path, example("own_jsonl.py", path=str(file)))
    await live.client.post("/admin/weight_version", json={"weight_version": 7})
    await live.client.post("/sessions/a/v1/chat/completions", json={"model": "none"})
    await call(live, "a", n=2, stream=stream)
    await until(lambda: file.exists() and file.read_text().count("\n") == 2)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    [trace] = [one for one in await traces_of(live, "a") if one["verdict"] == "COMPLETE"]
    for line, choice in zip(lines, trace["choices"], strict=True):
        assert line["sampled"] == choice["token_ids"] != []
        assert line["logprobs"] == choice["logprobs"]
        assert line["prompt"] == choice["prompt_token_ids"]
        assert (line["session"], line["weights"], line["end"]) == ("a", 7, "length")


async def test_filter_and_tag_adds_metadata_and_drops_failed_prompts(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path, example("filter_and_tag.py"))
    choice = {"type": "function", "function": {"name": "weather"}}
    await call(live, "a", tools=[WEATHER], tool_choice=choice, max_tokens=200)
    await call(live, "a")
    refused = {"model": "none", "messages": [{"role": "user", "content": "a secret"}]}
    await live.client.post("/sessions/a/v1/chat/completions", json=refused)
    with_tool, plain, failed = await traces_of(live, "a")
    assert with_tool["metadata"] == {"tools": ["weather"], "long": False}
    assert plain["metadata"] == {"tools": [], "long": False}
    assert with_tool["verdict"] == plain["verdict"] == "COMPLETE"
    assert failed["delivery"]["status"] == 404
    assert failed["metadata"]["tools"] == []
    assert "a secret" not in json.dumps(failed)


@pytest.mark.parametrize("stream", [False, True])
async def test_redact_removes_addresses_and_token_ids_from_the_trace(
    gateway_for: GatewayFor, tmp_path: Path, stream: bool
) -> None:
    live = await capturing(gateway_for, tmp_path, example("redact.py"))
    said = "Write to ada@example.com, please."
    answer = await call(live, "a", content=said, stream=stream)
    await call(live, "a", content="Nothing of the kind.", stream=stream)
    assert answer.status_code == 200
    clean, other = await traces_of(live, "a")
    assert clean["messages"][0]["content"] == "Write to <address>, please."
    assert clean["raw_request"]["messages"] == clean["messages"]
    assert (clean["verdict"], clean["reasons"]) == ("INCOMPLETE", ["redacted"])
    assert clean["choices"][0]["verdict"] == "INCOMPLETE"
    assert not clean["prompt_token_ids"]
    assert not clean["choices"][0]["token_ids"]
    assert clean["token_counts"]["completion"] == 3
    assert other["verdict"] == "COMPLETE"
    assert "example.com" not in json.dumps([clean, other])


class Taking(BaseHTTPRequestHandler):
    """Puts what is posted into its server's queue."""

    server: "TakingServer"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(204)
        self.end_headers()
        self.server.taken.put(json.loads(body))

    def log_message(self, *_: object) -> None:
        """Nothing."""


class TakingServer(HTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Taking)
        self.taken: Queue[dict[str, Any]] = Queue()


@pytest.fixture
def trainer() -> Iterator[TakingServer]:
    with TakingServer() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


async def test_send_to_queue_posts_each_stored_trace(
    gateway_for: GatewayFor, tmp_path: Path, trainer: TakingServer
) -> None:
    url = f"http://127.0.0.1:{trainer.server_port}/traces"
    live = await capturing(gateway_for, tmp_path, example("send_to_queue.py", url=url))
    for content in ("one", "two"):
        await call(live, "a", content=content)
    sent = [await asyncio.to_thread(trainer.taken.get, timeout=20) for _ in range(2)]
    stored = await traces_of(live, "a")
    assert [one["divergence"] for one in sent] == [None, None], "it is found when a trace is read"
    assert sent == [{**one, "divergence": None} for one in stored]


async def test_send_to_queue_logs_an_unreachable_queue_and_keeps_the_trace(
    gateway_for: GatewayFor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gone = example("send_to_queue.py", url="http://127.0.0.1:9/traces")
    live = await capturing(gateway_for, tmp_path, gone)
    await call(live, "a")
    await until(lambda: "send_to_queue" in caplog.text)
    assert len(await traces_of(live, "a")) == 1
