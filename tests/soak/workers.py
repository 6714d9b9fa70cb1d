"""The workers, in a process of their own: what each is asked, it answers as it feels.

Standard input takes nothing; its end is theirs. Standard output has the ports, then Facts.
"""

import asyncio
import sys
from random import Random
from typing import cast

import httptools
import msgspec
import uvloop
from storm import weather
from storm.worker import Mood
from support.workers.killed_server import Mortal

from soak.engine import Answer, Request
from soak.facts import Served
from soak.plan import SPARE, Plan
from soak.telling import Tell, telling

MODELS = b'{"object": "list", "data": [{"id": "soak", "object": "model"}]}'
REFUSED = b'{"error": {"message": "as told", "type": "soak", "param": null, "code": "soak"}}'
LOADING = b'{"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}'
"""llama.cpp's own words: it has not begun."""

STATUSES = {
    "200": b"200 OK",
    "400": b"400 Bad Request",
    "500": b"500 Internal Server Error",
    "503": b"503 Service Unavailable",
}
WHOLE = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
SLOWER = 10


class Worker(Mortal[Mood]):
    """Serves on a loopback port, always the same, while it is not killed."""

    def __init__(self, name: str, plan: Plan, tell: Tell) -> None:
        super().__init__("well", lambda: Connection(self))
        self.name = name
        self.plan = plan
        self.tell = tell
        self.chance = Random(f"{name} {plan.seed}")


class Connection(asyncio.Protocol):
    """One connection from the gateway, for a call at a time."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._parser = httptools.HttpRequestParser(self)
        self._call: Generation | None = None
        self._begin()

    def _begin(self) -> None:
        self._url = b""
        self._fields: dict[bytes, bytes] = {}
        self._body = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._worker.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._worker.connections.discard(self)
        if self._call is not None:
            self._call.stop()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields[name.lower()] = value

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        if self._parser.get_method() == b"POST":
            mood = self._fields.get(b"x-soak-mood", self._worker.mood.encode()).decode()
            self._call = Generation(self._worker, self.transport, cast(Mood, mood), self._fields)
            self._call.start(bytes(self._body))
        elif self._worker.mood == "503":
            self.transport.write(WHOLE % (STATUSES["503"], len(REFUSED), REFUSED))
        elif self._worker.mood != "hung":
            self.transport.write(WHOLE % (STATUSES["200"], len(MODELS), MODELS))
        self._begin()


class Generation:
    """One call. What it has done is told when it is over, whichever way."""

    def __init__(
        self,
        worker: Worker,
        transport: asyncio.Transport,
        mood: Mood,
        fields: dict[bytes, bytes],
    ) -> None:
        self._worker = worker
        self._transport = transport
        self._mood = mood
        self._call_id = fields[b"x-request-id"].decode()
        slower = SLOWER if mood == "slow" else 1
        plan = worker.plan
        pause = float(fields.get(b"x-soak-pause", b"0"))
        self._ttft, self._itl = plan.ttft * slower, max(plan.itl * slower, pause)
        self._served = Served(self._call_id, worker.name, False, False, False, 0, 0, 0)
        self._task: asyncio.Task[None] | None = None

    def start(self, body: bytes) -> None:
        if self._mood in ("400", "503"):
            self._refuse(self._mood)
            self.tell()
            return
        self._note(ran=True)
        request = msgspec.json.decode(body, type=Request)
        self._task = asyncio.create_task(self._generate(request))
        self._task.add_done_callback(lambda _: self.tell())

    def stop(self) -> None:
        """The connection is gone."""
        if self._task is not None:
            self._task.cancel()

    def tell(self) -> None:
        self._worker.tell(self._served)

    def _note(self, **changes: bool | int) -> None:
        self._served = msgspec.structs.replace(self._served, **changes)

    def _refuse(self, status: str) -> None:
        body = LOADING if status == "503" else REFUSED
        self._transport.write(WHOLE % (STATUSES[status], len(body), body))

    async def _generate(self, request: Request) -> None:
        if self._mood == "hung":
            await asyncio.Event().wait()
        await asyncio.sleep(self._ttft * self._worker.chance.uniform(0.5, 1.5))
        if self._mood == "500":
            self._refuse("500")
            return
        answer = Answer(self._call_id, request, self._worker.chance)
        self._note(prompt=answer.prompt, cached=answer.cached)
        await (self._stream(answer) if request.stream else self._plain(answer))

    async def _plain(self, answer: Answer) -> None:
        body = answer.plain()
        await asyncio.sleep(self._itl * answer.completion / 4)
        if self._mood == "breaking":
            some = body[: self._worker.chance.randrange(len(body))]
            self._note(completion=answer.completion)  # the part may have the usage in it
            self._transport.write(WHOLE % (STATUSES["200"], len(body), some))
            self._break_off()
            return
        self._note(completion=answer.completion, told=True, whole=True)
        self._transport.write(WHOLE % (STATUSES["200"], len(body), body))

    async def _stream(self, answer: Answer) -> None:
        pieces = answer.pieces()
        breaks = self._worker.chance.randrange(len(pieces)) if self._mood == "breaking" else -1
        self._transport.write(EVENTS)
        for number, piece in enumerate(pieces):
            if number == breaks:
                half = piece.data[: len(piece.data) // 2]
                self._transport.write(b"%x\r\n%b\r\n" % (len(half), half))
                self._break_off()
                return
            tokens = self._served.completion + piece.tokens
            whole = number == len(pieces) - 1
            self._note(completion=tokens, told=self._served.told or piece.told, whole=whole)
            end = b"0\r\n\r\n" if whole else b""
            self._transport.write(b"%x\r\n%b\r\n%b" % (len(piece.data), piece.data, end))
            if piece.tokens:
                await asyncio.sleep(self._itl)

    def _break_off(self) -> None:
        if self._worker.chance.random() < 0.5:
            self._transport.abort()
        else:
            self._transport.close()


async def run(plan: Plan) -> None:
    """Until standard input ends."""
    async with telling() as tell:
        workers = {name: Worker(name, plan, tell) for name in [*plan.workers, SPARE]}
        for worker in workers.values():
            await worker.start()
        tell({name: worker.port for name, worker in workers.items()})
        troubled = [workers[name] for name, trouble in plan.workers.items() if trouble]
        blowing = asyncio.create_task(weather.blow(troubled, plan.spell, plan.seed))
        await asyncio.to_thread(sys.stdin.read)
        blowing.cancel()


if __name__ == "__main__":
    uvloop.run(run(msgspec.json.decode(sys.argv[1], type=Plan)))
