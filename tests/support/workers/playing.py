"""A worker that plays recorded responses, and what their caller must get of them."""

import asyncio
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from support.callers.raw_client import Headers, RawAnswer
from support.records.vllm_recordings import RecordedExchange

from gateway.testing import ScriptedConnection
from gateway.upstream.response import HOP_BY_HOP

ADDED = HOP_BY_HOP | {b"x-request-id", b"x-gateway-worker", b"server-timing"}


class Playing:
    """What the worker says to each request: `pieces`, one write each, then perhaps the end."""

    def __init__(self) -> None:
        self.pieces: Sequence[bytes] = ()
        self.breaks_off = False

    async def script(self, connection: ScriptedConnection) -> None:
        while True:
            await connection.read_request()
            for piece in self.pieces:
                await connection.write(piece)
                await asyncio.sleep(0)  # the gateway reads in the same loop: now, or with the next
            if self.breaks_off:
                return


@contextmanager
def naming(exchange: RecordedExchange) -> Iterator[None]:
    """Says which exchange it was."""
    try:
        yield
    except Exception as error:
        error.add_note(f"in the exchange {exchange.name}")
        raise


def pairs(headers: Sequence[tuple[str, str]]) -> Headers:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


def headers_of(exchange: RecordedExchange) -> Headers:
    """The headers, with the length that the body has: names of folders in it were shortened."""
    length = str(len(exchange.body)).encode()
    lines = pairs(exchange.headers)
    return [(n, length if n.lower() == b"content-length" else value) for n, value in lines]


def raw(exchange: RecordedExchange) -> bytes:
    """The answer as its engine put it on the wire; in a stream each event is a chunk."""
    lines = b"".join([b"%b: %b\r\n" % line for line in headers_of(exchange)])
    head = b"HTTP/1.1 %d Recorded\r\n%b\r\n" % (exchange.status, lines)
    coded = {(name.lower(), value.lower()) for name, value in exchange.headers}
    if ("transfer-encoding", "chunked") not in coded:
        return head + exchange.body
    events = [event for event in re.split(rb"(?<=\n\n)", exchange.body) if event]
    chunks = [b"%x\r\n%b\r\n" % (len(event), event) for event in events]
    return b"".join([head, *chunks, b"" if exchange.cut_short else b"0\r\n\r\n"])


def end_to_end(headers: Headers) -> Headers:
    lines = [(name.lower(), value) for name, value in headers]
    return [line for line in lines if line[0] not in ADDED]


def compare(answer: RawAnswer, exchange: RecordedExchange) -> None:
    """All is there, and nothing else; also if it was cut short."""
    assert answer.status == exchange.status
    assert end_to_end(answer.headers) == [
        (name, value)
        for name, value in end_to_end(headers_of(exchange))
        # The address of the recorded worker is not that of the one that plays: not passed on.
        if not (name == b"location" and value.startswith(b"http"))
    ]
    assert answer.body == exchange.body
