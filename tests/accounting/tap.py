"""What passed between a gateway and a worker: read off the wire, by none of the gateway's code."""

import asyncio
import contextlib
import json
from collections import deque
from typing import Any

import httptools
import msgspec
from support.records.usage_rows import Tokens

CHUNK = 1 << 16


class Said(msgspec.Struct):
    """An answer, as far as it came. `body` is without its framing; `whole`: it came to its end."""

    status: int = 0
    headers: dict[bytes, bytes] = {}
    body: bytearray = msgspec.field(default_factory=bytearray)
    whole: bool = False


class Served(Said):
    """What worker `worker` said to call `call_id`. `asked` is the request, if the tap keeps it."""

    call_id: str = ""
    worker: str = ""
    path: str = ""
    asked: bytearray = msgspec.field(default_factory=bytearray)


class Reading:
    """Reads one answer after the other off a connection, each into the next of `waiting`."""

    def __init__(self, waiting: deque[Said]) -> None:
        self._waiting = waiting
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """Raises httptools.HttpParserError where it is no HTTP."""
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._waiting[0].headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self._waiting[0].status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        self._waiting[0].body += data

    def on_message_complete(self) -> None:
        self._waiting.popleft().whole = True


class _Asking:
    """Reads requests, and opens a page for each."""

    def __init__(
        self, waiting: deque[Said], served: list[Served], worker: str, *, keeps: bool
    ) -> None:
        self._waiting = waiting
        self._served = served
        self._worker = worker
        self._keeps = keeps
        self._call_id = self._path = ""
        self._page = Served()
        self._parser = httptools.HttpRequestParser(self)

    def feed(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._path = url.decode()

    def on_body(self, data: bytes) -> None:
        if self._keeps:
            self._page.asked += data

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"x-request-id":
            self._call_id = value.decode()

    def on_headers_complete(self) -> None:
        page = self._page = Served(call_id=self._call_id, worker=self._worker, path=self._path)
        self._served.append(page)
        self._waiting.append(page)


class Tap:
    """Stands before the worker at `port` of this machine, and looks like it.

    `served` has a page for each request that reached it, with the request if it `keeps` them. What
    it says that the gateway was told may be more than the gateway had time to read, and never less.
    """

    def __init__(self, name: str, port: int, *, keeps: bool = False) -> None:
        self.name = name
        self._keeps = keeps
        self.served: list[Served] = []
        self._behind = port
        self._port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(
            self._carry, "127.0.0.1", self._port, reuse_address=True
        )
        self._port = self._server.sockets[0].getsockname()[1]

    def kill(self) -> None:
        """As when the worker's process dies; `start` brings it back at the same address."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            behind_reader, behind = await asyncio.open_connection("127.0.0.1", self._behind)
        except ConnectionError:  # the worker is dead, and the tap is not
            writer.transport.abort()
            return
        self._writers |= {writer, behind}
        waiting: deque[Said] = deque()
        ways = (
            _pass_on(reader, behind, _Asking(waiting, self.served, self.name, keeps=self._keeps)),
            _pass_on(behind_reader, writer, Reading(waiting)),
        )
        tasks = [asyncio.create_task(way) for way in ways]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._writers -= {writer, behind}
            behind.transport.abort()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


async def _pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, book: Reading | _Asking
) -> None:
    """To the end of one side, which ends the other in the same way."""
    try:
        while data := await reader.read(CHUNK):
            with contextlib.suppress(httptools.HttpParserError):
                book.feed(data)
            writer.write(data)
            await writer.drain()
        writer.close()
    except ConnectionError:
        writer.transport.abort()


NOTHING = Tokens(None, 0)


def tokens_of(said: Said, choices: int) -> Tokens:
    """What an answer with so many choices for each prompt says of its tokens, as far as it came."""
    if said.status != 200:
        return NOTHING
    if said.headers.get(b"content-type", b"").startswith(b"text/event-stream"):
        return _of_events(events_of(said.body), choices)
    try:
        return _told(json.loads(said.body)["usage"])
    except ValueError:
        return NOTHING


def events_of(body: bytes | bytearray) -> list[dict[str, Any]]:
    """The JSON of the events that came whole, but for the gateway's own."""
    events = bytes(body).split(b"\n\n")[:-1]
    data = [one.removeprefix(b"data: ") for one in events if one.startswith(b"data: {")]
    return [json.loads(one) for one in data]


def _of_events(events: list[dict[str, Any]], choices: int) -> Tokens:
    told = [event["usage"] for event in events if event.get("usage")]
    if told:
        return _told(told[-1])
    prompts: dict[int, int] = {}
    completion = 0
    for event in events:
        if event.get("prompt_token_ids"):
            prompts[0] = len(event["prompt_token_ids"])
        for choice in event.get("choices", ()):
            completion += len(choice.get("token_ids") or ())
            if choice.get("prompt_token_ids") and choice["index"] % choices == 0:
                prompts[choice["index"]] = len(choice["prompt_token_ids"])
    return Tokens(sum(prompts.values()) if prompts else None, completion)


def _told(usage: dict[str, Any]) -> Tokens:
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return Tokens(usage["prompt_tokens"], usage["completion_tokens"], cached, told=True)
