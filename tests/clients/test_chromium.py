"""Pages in a real Chromium make calls: `pytest -m clients`, with Debian's `chromium` installed."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import pytest

from gateway.config import Cors, PluginEntry
from gateway.testing import (
    GatewayFor,
    ScriptedConnection,
    ScriptedWorker,
    answer_of,
    entry,
    sse,
)

CHROMIUM = shutil.which("chromium") or ""

pytestmark = [
    pytest.mark.clients,
    pytest.mark.timeout(180),
    pytest.mark.skipif(not CHROMIUM, reason="there is no chromium"),
]

PATIENCE = 60.0
"""Seconds that a page has to be loaded and to tell what it has seen."""

EVENTS = b"".join([sse({"piece": number}) for number in range(3)])

STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n"
    b"access-control-allow-origin: %b\r\nconnection: close\r\n\r\n%b"
)
OWN_LAYER = (
    b"HTTP/1.1 204 OK\r\naccess-control-allow-origin: *\r\n"
    b"access-control-allow-headers: authorization,content-type\r\n\r\n"
)

PAGE = """<!doctype html><script>
const told = {}, gateway = "%s";
const asking = key => ({
  method: "POST", body: '{"messages": []}',
  headers: {"authorization": "Bearer " + key, "content-type": "application/json"},
});
async function ask() {
  const answer = await fetch(gateway + "/v1/chat/completions", asking("gw-a"));
  told.status = answer.status;
  told.id = answer.headers.get("x-request-id");
  const reader = answer.body.getReader(), words = new TextDecoder();
  told.text = "";
  for (let piece; !(piece = await reader.read()).done;)
    told.text += words.decode(piece.value, {stream: true});
  const limited = await fetch(gateway + "/v1/chat/completions", asking("gw-a"));
  told.limited = [limited.status, Number(limited.headers.get("retry-after")) > 0];
  const refused = await fetch(gateway + "/v1/chat/completions", asking("gw-no"));
  told.refused = [refused.status, (await refused.json()).error.code];
}
async function listen() {
  const source = new EventSource(gateway + "/v1/stream");
  told.events = [];
  await new Promise((done, failed) => {
    source.onerror = () => failed("EventSource failed");
    source.onmessage = event => told.events.push(event.data) < 3 || done();
  });
  source.close();
}
%s().catch(error => told.error = String(error)).finally(
  () => fetch("/done", {method: "POST", body: JSON.stringify(told)}));
</script>"""


class Site:
    """Serves one page at `url`, and hears what it has seen."""

    def __init__(self) -> None:
        self._page = b""
        self._told: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._server = ScriptedWorker(self._serve)

    @property
    def url(self) -> str:
        return self._server.url

    async def _serve(self, connection: ScriptedConnection) -> None:
        while True:
            request = await connection.read_request()
            if request.startswith(b"POST /done"):
                self._told.set_result(request.partition(b"\r\n\r\n")[2])
            await connection.write(answer_of(self._page, content_type="text/html"))

    async def load(self, script: str, gateway: str, folder: Path) -> dict[str, Any]:
        """What a page tells that calls its function `script` in a browser."""
        self._page = (PAGE % (gateway, script)).encode()
        browser = await asyncio.create_subprocess_exec(
            CHROMIUM,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            f"--user-data-dir={folder / 'profile'}",
            self.url,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(PATIENCE):
                found: dict[str, Any] = json.loads(await self._told)
                return found
        finally:
            browser.kill()
            await browser.wait()

    async def __aenter__(self) -> Self:
        await self._server.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.__aexit__(None, None, None)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with Site() as running:
        yield running


@asynccontextmanager
async def engine(origin: bytes = b"") -> AsyncIterator[ScriptedWorker]:
    """A worker whose own CORS layer names `origin`; empty, as llama.cpp may send it."""

    async def script(connection: ScriptedConnection) -> None:
        request = await connection.read_request()
        if request.startswith(b"OPTIONS"):
            await connection.write(OWN_LAYER)
        else:
            await connection.write(STREAM % (len(EVENTS), origin, EVENTS))

    async with ScriptedWorker(script) as worker:
        yield worker


@pytest.fixture
def plugins(tmp_path: Path) -> list[PluginEntry]:
    """Keys, of which one may make one call a minute."""
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [{"id": "a", "token": "gw-a", "scopes": ["realtime"]}]}))
    file.chmod(0o600)
    limits = {"requests_per_minute": 1, "burst_requests": 1}
    return [entry("auth", keys_file=str(file)), entry("limits", default=limits)]


async def test_page_of_a_named_origin_reads_streams_and_errors(
    gateway_for: GatewayFor, plugins: list[PluginEntry], site: Site, tmp_path: Path
) -> None:
    async with engine() as worker:
        live = await gateway_for(*plugins, workers=[worker.url], cors=Cors(origins=(site.url,)))
        told = await site.load("ask", live.url, tmp_path)
        assert [one.split()[0] for one in worker.requests] == [b"POST"]
    assert len(told.pop("id")) == 32
    assert told == {
        "status": 200,
        "text": EVENTS.decode(),
        "limited": [429, True],
        "refused": [401, "invalid_api_key"],
    }


async def test_page_of_another_origin_reads_nothing(
    gateway_for: GatewayFor, plugins: list[PluginEntry], site: Site, tmp_path: Path
) -> None:
    async with engine(b"*") as worker:
        cors = Cors(origins=("https://chat.example",))
        live = await gateway_for(*plugins, workers=[worker.url], cors=cors)
        told = await site.load("ask", live.url, tmp_path)
        assert worker.requests == []
    assert told == {"error": "TypeError: Failed to fetch"}


async def test_page_makes_calls_if_the_worker_lets_it_and_no_origin_is_named(
    gateway_for: GatewayFor, plugins: list[PluginEntry], site: Site, tmp_path: Path
) -> None:
    async with engine(b"*") as worker:
        live = await gateway_for(*plugins, workers=[worker.url])
        told = await site.load("ask", live.url, tmp_path)
    assert (told["status"], told["text"]) == (200, EVENTS.decode())
    assert told["error"] == "TypeError: Failed to fetch", "errors of the gateway are not for it"


async def test_page_hears_an_event_source(
    gateway_for: GatewayFor, site: Site, tmp_path: Path
) -> None:
    async with engine() as worker:
        live = await gateway_for(workers=[worker.url], cors=Cors(origins=("*",)))
        told = await site.load("listen", live.url, tmp_path)
    assert [json.loads(data) for data in told["events"]] == [{"piece": n} for n in range(3)]
