"""Programs that use other people's clients get through the gateway what they get directly.

Opt-in: `make clients` installs the clients into two environments (no version of `openai` suits all
of them) and runs this.
"""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.paths import DOCS, ROOT

from gateway.testing import (
    DONE,
    GatewayFor,
    ScriptedConnection,
    ScriptedWorker,
    answer_of,
    sse,
)

CLIENTS = {
    "openai": "",
    "litellm": "",
    "langchain-openai": "",
    "openai-agents": "",
    "pydantic-ai": "",
    "inspect-ai": "",
    "dspy": "",
    "smolagents": "",
    "strands": "-2",
    "verifiers": "-2",
}
"""By client the end of the name of its environment, and of its file in requirements/."""

ASKING = Path(__file__).with_name("asking.py")
PATIENCE = 600.0
"""Seconds for all calls of a client; some import for half a minute on a busy machine."""

TEXT = "Hello there"
HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
MODEL = re.compile(rb'"model": ?"([\w-]+)"')
CASES = ("whole", "cut", "limited", "failed")


def chunk(delta: Mapping[str, str], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "tiny"}
    event = sse({**head, "choices": [choice]})
    return b"%x\r\n%b\r\n" % (len(event), event)


BEGUN = [chunk({"role": "assistant", "content": ""}), chunk({"content": "Hello"})]
WHOLE = HEAD + b"".join(
    [
        *BEGUN,
        chunk({"content": " there"}),
        chunk({}, "stop"),
        b"%x\r\n%b\r\n0\r\n\r\n" % (len(DONE), DONE),
    ]
)
PLAIN = msgspec.json.encode(
    {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "tiny",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": TEXT},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }
)
STATUSES = {"limited": "429 Slowly", "failed": "503 Busy"}


class Engine:
    """Fails the first call of each model as its name says, and answers the others.

    `asked` counts the calls of each model.
    """

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()

    async def script(self, connection: ScriptedConnection) -> None:
        while True:
            request = await connection.read_request()
            found = MODEL.search(request)
            assert found is not None, request
            model = found[1].decode()
            self.asked[model] += 1
            streams = re.search(rb'"stream": ?true', request) is not None
            case = model.partition("-")[0] if self.asked[model] == 1 else "whole"
            if case == "cut":
                half = answer_of(PLAIN)[:-60]
                return await connection.write(HEAD + b"".join(BEGUN) if streams else half)
            await connection.write(self._answer(case, streams=streams))

    def _answer(self, case: str, *, streams: bool) -> bytes:
        if case in STATUSES:
            error = b'{"error": {"message": "busy", "type": "server_error", "code": "busy"}}'
            return answer_of(error, status=STATUSES[case]).replace(
                b"\r\n\r\n", b"\r\nretry-after: 1\r\n\r\n", 1
            )
        return WHOLE if streams else answer_of(PLAIN)


class Got(msgspec.Struct, frozen=True):
    """What a program got, and how often the engine was asked for it."""

    text: str
    error: str
    asked: int


async def run(name: str, asks: Sequence[Mapping[str, object]]) -> list[dict[str, str]]:
    """What the client gets of each ask."""
    python = ROOT / f".venv-clients{CLIENTS[name]}" / "bin" / "python"
    if not python.exists():
        pytest.skip("`make clients` installs the clients")
    running = await asyncio.create_subprocess_exec(
        python,
        ASKING,
        name,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PATIENCE):
            out, err = await running.communicate(json.dumps(asks).encode())
    finally:
        if running.returncode is None:
            running.kill()
    assert running.returncode == 0, err.decode()
    told: list[dict[str, str]] = json.loads(out.decode().strip().splitlines()[-1])
    return told


def documented() -> dict[str, tuple[str, str]]:
    """By client what docs/errors.md says of a broken stream: without the event, and with it."""
    text = (DOCS / "errors.md").read_text(encoding="utf-8")
    row = re.compile(r"^\| `([\w-]+)` \| \d+\.[\d.]+ \| (.+?) \| (.+?) \|$", re.MULTILINE)
    return {name: (broken, event) for name, broken, event in row.findall(text)}


def in_words(got: Got) -> str:
    return "asks again" if got.asked > 1 else f"`{got.error}`"


@pytest.mark.clients
@pytest.mark.timeout(PATIENCE + 60)
@pytest.mark.parametrize("name", CLIENTS)
async def test_client_gets_through_the_gateway_what_it_gets_directly(
    gateway_for: GatewayFor, name: str
) -> None:
    engine = Engine()
    async with ScriptedWorker(engine.script) as worker:
        live = await gateway_for(workers=[worker.url])
        telling = await gateway_for(workers=[worker.url], stream_errors="event")
        servers = {"direct": worker.url, "through": live.url, "event": telling.url}
        asks: list[dict[str, Any]] = [
            {"url": f"{url}/v1", "model": f"{case}-{way}-{how}", "stream": way == "stream"}
            for case in CASES
            for way in ("plain", "stream")
            for how, url in servers.items()
            if how != "event" or (case, way) == ("cut", "stream")
        ]
        told = await run(name, asks)
    got = {
        ask["model"]: Got(one["text"], one["error"], engine.asked[ask["model"]])
        for ask, one in zip(asks, told, strict=True)
    }
    for case in CASES:
        for way in ("plain", "stream"):
            assert got[f"{case}-{way}-through"] == got[f"{case}-{way}-direct"], (case, way, told)
    whole = got["whole-plain-through"]
    assert (whole.text, whole.asked) == (TEXT, 1)
    found = in_words(got["cut-stream-through"]), in_words(got["cut-stream-event"])
    assert documented()[name] == found


def test_manual_has_a_row_for_each_client() -> None:
    assert list(documented()) == list(CLIENTS)
    for broken, event in documented().values():
        assert re.fullmatch(r"`\w+`|asks again", broken)
        assert re.fullmatch(r"`\w+`|asks again", event)


def test_manual_names_the_versions_that_are_pinned() -> None:
    text = (DOCS / "errors.md").read_text(encoding="utf-8")
    packages = {"pydantic-ai": "pydantic-ai-slim", "strands": "strands-agents"}
    for name, end in CLIENTS.items():
        pins = (ROOT / "requirements" / f"clients{end}.txt").read_text()
        [version] = re.findall(
            rf"^{re.escape(packages.get(name, name))}(?:\[\w+\])?==(\S+)", pins, re.MULTILINE
        )
        assert f"| `{name}` | {version} |" in text
