"""Workers that do not answer, each in its own way, and a plugin that asks workers in order."""

import asyncio
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from gateway import Call, Gateway, Worker, hookimpl
from gateway.config import Failover
from gateway.testing import ScriptedConnection, answer_of

QUICK = Failover(backoff=1e-6)
"""No time is lost between workers."""

OK = answer_of(b'{"ok": true}')


class InOrder:
    """Picks the first of the workers that are left, and keeps how many there were each time."""

    def __init__(self) -> None:
        self.left: list[int] = []

    @hookimpl
    async def pick_worker(self, call: Call, workers: Sequence[Worker]) -> Worker:
        self.left.append(len(workers))
        return workers[0]


@contextmanager
def unreachable() -> Iterator[str]:
    """The URL of a port that nobody listens on, and that nobody else gets."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield "http://{}:{}".format(*bound.getsockname())


QUEUE_FULL = (
    b'{"object":"error","message":"The request queue is full.",'
    b'"type":"503","param":null,"code":503}'
)
"""SGLang's refusal of a call that it has not begun."""

UNSAID = b"<html><body><h1>Bad Gateway</h1></body></html>"
"""A proxy's page: it does not tell whether the call has run."""


def refusal(status: int, *lines: str, body: bytes = QUEUE_FULL) -> bytes:
    """A plain answer of that status, with further header lines."""
    head = "\r\n".join([f"HTTP/1.1 {status} Not Now", f"content-length: {len(body)}", *lines])
    return head.encode() + b"\r\n\r\n" + body


async def closes(connection: ScriptedConnection) -> None:
    await connection.read_request()


async def resets(connection: ScriptedConnection) -> None:
    await connection.read_request()
    connection.reset()


async def babbles(connection: ScriptedConnection) -> None:
    await connection.read_request()
    await connection.write(b"\x00\x00\r\n\r\n")


async def is_silent(connection: ScriptedConnection) -> None:
    await connection.read_request()
    await connection.wait_closed()


async def resets_unread(connection: ScriptedConnection) -> None:
    await asyncio.sleep(0)
    connection.reset()


def assert_idle(gateway: Gateway) -> None:
    """Each slot that was taken was given back, once."""
    assert [worker.in_flight for worker in gateway.workers.all] == [0] * len(gateway.workers.all)
    assert gateway.workers.slots.used == 0
