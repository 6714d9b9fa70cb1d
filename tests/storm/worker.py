"""A worker that fails as it is told to, and writes down what it has run."""

import asyncio
import random
from typing import Literal, cast

from support.workers.killed_server import Mortal

from storm.ledger import Ledger, pieces_of

Mood = Literal["well", "slow", "hung", "500", "503", "400", "breaking", "killed"]

TTFT = 0.02
ITL = 0.005
"""Seconds to the first piece and between two, on average, of a worker that is well."""

SLOWER = 10

LATE_NEWS = 0.1
"""Seconds in which a worker is sure to have seen that the other side closed a connection."""

STATUSES = {
    "400": b"400 Bad Request",
    "500": b"500 Internal Server Error",
    "503": b"503 Service Unavailable",
}
REFUSED = b'{"error": {"message": "as told", "type": "storm", "param": null, "code": "storm"}}'
LOADING = b'{"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}'
"""llama.cpp's own words: it has not begun."""

MODELS = b'{"object": "list", "data": [{"id": "storm"}]}'
WHOLE = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class FaultyWorker(Mortal[Mood]):
    """Serves on a loopback port, always the same, while it is not killed.

    `limit` is how many calls it may be given at a time, `running` are those it has.
    """

    def __init__(self, name: str, limit: int, ledger: Ledger, seed: int) -> None:
        super().__init__("well", lambda: WorkerConnection(self))
        self.name = name
        self.ledger = ledger
        self.running: set[WorkerConnection] = set()
        self.random = random.Random(f"{name} {seed}")
        self._limit = limit

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def begin(self, connection: "WorkerConnection") -> None:
        self.running.add(connection)
        count = len(self.running)
        self.ledger.most[self.name] = max(self.ledger.most[self.name], count)
        if count > self._limit:
            # The gateway may have closed others before, and the news is still on its way.
            others = self.running - {connection}
            loop = asyncio.get_running_loop()
            loop.call_later(LATE_NEWS, self._judge, others, count - self._limit)

    def _judge(self, others: "set[WorkerConnection]", over: int) -> None:
        if sum(other.abandoned for other in others) < over:
            self.ledger.over_limit[self.name] += 1


class WorkerConnection(asyncio.Protocol):
    """One connection from the gateway, for a call at a time.

    `abandoned`: it ended in the middle of a call, and not by the worker's answer.
    """

    def __init__(self, worker: FaultyWorker) -> None:
        self.abandoned = False
        self._worker = worker
        self._data = b""
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._worker.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._worker.connections.discard(self)
        if self in self._worker.running:
            self.abandoned = True
            self._worker.running.discard(self)
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, end, body = self._data.partition(b"\r\n\r\n")
        if not end:
            return
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        if len(body) >= int(fields.get(b"content-length", b"0")):
            self._data = b""
            if head.startswith(b"POST"):
                call_id = fields[b"x-request-id"].decode()
                self._take(call_id, stream=b'"stream":true' in body)
            else:
                self._tell()

    def _tell(self) -> None:
        """Whether it is well, and what it serves; probes ask."""
        if self._worker.mood == "503":
            self._send("503", LOADING)
        elif self._worker.mood != "hung":
            self._send("200", MODELS)

    def _send(self, status: str, body: bytes) -> None:
        self._worker.running.discard(self)
        self.transport.write(WHOLE % (STATUSES.get(status, b"200 OK"), len(body), body))

    def _take(self, call_id: str, *, stream: bool) -> None:
        mood = self._worker.mood
        if mood in ("400", "503"):
            self._send(mood, LOADING if mood == "503" else REFUSED)
            return
        self._worker.ledger.runs[call_id] += 1
        self._worker.begin(self)
        if mood != "hung":
            self._task = asyncio.create_task(self._generate(mood, call_id, stream=stream))

    async def _generate(self, mood: Mood, call_id: str, *, stream: bool) -> None:
        pace = self._worker.random.uniform(0.5, 1.5) * (SLOWER if mood == "slow" else 1)
        await asyncio.sleep(TTFT * pace)
        pieces = pieces_of(call_id, stream=stream)
        if mood == "500":
            self._send(mood, REFUSED)
        elif mood == "breaking":
            self._break_off(pieces, stream=stream)
        elif stream:
            await self._stream(pieces, ITL * pace)
        else:
            await asyncio.sleep(ITL * len(pieces) * pace)
            self._send("200", pieces[0])

    async def _stream(self, pieces: list[bytes], pause: float) -> None:
        self.transport.write(EVENTS)
        for piece in pieces[:-1]:
            self.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await asyncio.sleep(pause)
        self._worker.running.discard(self)
        self.transport.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(pieces[-1]), pieces[-1]))

    def _break_off(self, pieces: list[bytes], *, stream: bool) -> None:
        """Some of the answer, and then nothing more: at an event's end, or in its middle."""
        body = b"".join(pieces)
        some = body[: self._worker.random.randrange(len(body))]
        if stream:
            self.transport.write(EVENTS + b"%x\r\n%b\r\n" % (max(len(some), 1), some or b":"))
        else:
            self.transport.write(WHOLE % (b"200 OK", len(body), some))
        self._worker.running.discard(self)
        self.transport.close()
