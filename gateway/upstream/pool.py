"""The connections to one worker: opened when needed, kept while the worker keeps them."""

import asyncio
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import aiohappyeyeballs

from gateway.config import TLS, Limits
from gateway.errors import ConnectFailed, ConnectTimeout
from gateway.upstream.connection import Connection
from gateway.upstream.response import ResponseParser

STAGGER = 0.25
"""Seconds that one address has before the next is tried beside it (RFC 8305)."""


class Pool:
    """Hands out connections to `host`:`port`, the latest used first, so that the others may close.

    Times are seconds: `connect` bounds the opening of one (None: no bound), `keepalive` how long an
    idle one is kept.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        limits: Limits,
        connect: float | None,
        keepalive: float,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._host = host
        self._port = port
        self._limits = limits
        self._connect = connect
        self._keepalive = keepalive
        self._tls = tls
        self._idle: dict[Connection, None] = {}  # the longest idle first
        self._all: set[Connection] = set()
        self._reaper: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._all)

    def take(self) -> Connection | None:
        """An idle connection that is not known to be dead."""
        while self._idle:
            connection, _ = self._idle.popitem()
            if not connection.closed:
                return connection
        return None

    async def open(self) -> Connection:
        """A fresh connection. Raises ConnectFailed or ConnectTimeout."""
        try:
            async with asyncio.timeout(self._connect):
                return await self._open()
        except TimeoutError:
            raise ConnectTimeout(self._connect or 0) from None
        except ssl.SSLError as error:
            raise ConnectFailed(f"TLS with the worker failed: {error.reason}") from error
        except (OSError, UnicodeError) as error:  # a name with an empty or too long label
            raise ConnectFailed("the worker cannot be reached") from error

    async def _open(self) -> Connection:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        sock = await aiohappyeyeballs.start_connection(
            found, happy_eyeballs_delay=STAGGER, interleave=1, loop=loop
        )
        try:
            _, connection = await loop.create_connection(
                self._connection,
                sock=sock,
                ssl=self._tls,
                server_hostname=self._host if self._tls else None,
            )
        except BaseException:
            sock.close()
            raise
        self._all.add(connection)
        return connection

    def _connection(self) -> Connection:
        parser = ResponseParser(self._limits.max_header_bytes, self._limits.max_headers)
        return Connection(asyncio.get_running_loop(), parser, self._keep, self._lost)

    def _keep(self, connection: Connection) -> None:
        connection.idle_since = connection.loop.time()
        self._idle[connection] = None
        if self._reaper is None:
            self._reap_later()

    def _lost(self, connection: Connection) -> None:
        self._all.discard(connection)
        self._idle.pop(connection, None)

    def _reap_later(self) -> None:
        self._reaper = asyncio.get_running_loop().call_later(self._keepalive, self._reap)

    def _reap(self) -> None:
        self._reaper = None
        oldest = asyncio.get_running_loop().time() - self._keepalive
        for connection in [c for c in self._idle if c.idle_since <= oldest]:
            del self._idle[connection]
            connection.abort()
        if self._idle:
            self._reap_later()

    def close(self) -> None:
        """Abort every connection, also those in use."""
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None
        self._idle.clear()
        for connection in list(self._all):
            connection.abort()


def tls_context(tls: TLS) -> ssl.SSLContext:
    """The context for one worker. Raises OSError with the file that cannot be used."""
    with _blamed(tls.ca_file):
        context = ssl.create_default_context(cafile=tls.ca_file)
    if tls.cert_file:
        with _blamed(tls.cert_file, tls.key_file):
            context.load_cert_chain(tls.cert_file, tls.key_file)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


@contextmanager
def _blamed(*files: str | None) -> Iterator[None]:
    """Neither the system nor OpenSSL says which file it could not use."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{' with '.join(filter(None, files))}: {error.strerror}") from None
