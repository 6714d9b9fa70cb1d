"""The connections to one worker: opened on demand, kept as long as the worker keeps them."""

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import aiohappyeyeballs

from gateway.config import TLS, ServerLimits
from gateway.errors import ConnectFailed, ConnectTimeout, OutOfSockets
from gateway.kernel import active
from gateway.upstream.connection import Connection
from gateway.upstream.phase_timer import NEVER, Alarm
from gateway.upstream.response import ResponseParser

STAGGER = 0.25
"""Seconds to wait for one address before the next is tried in parallel (RFC 8305)."""

MIN_KEEPALIVE = 1.0
"""Seconds; a worker that closes an idle connection sooner does so for another reason than age."""


OWN_LACK = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
"""Errors of this machine, which say nothing of the worker."""


class Pool:
    """Connections to `host`:`port`. The latest used is handed out first, so that others may expire.

    Times are in seconds: `connect` is the timeout to open a connection (None: no limit),
    `keepalive` how long an idle one is kept. If the worker closes one that was idle for less than
    `shortest`, nothing is inferred about the worker's keep-alive timeout.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        limits: ServerLimits,
        connect: float | None,
        keepalive: float,
        shortest: float = MIN_KEEPALIVE,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.limits = limits
        self.functions = active().functions
        self._host = host
        self._port = port
        self._connect = connect
        self._keepalive = self._horizon = keepalive
        self._shortest = shortest
        self._tls = tls
        self._idle: dict[Connection, None] = {}  # longest idle first
        self._all: set[Connection] = set()
        self._reaper: asyncio.TimerHandle | None = None
        self._retired = False
        self._alarm = Alarm()

    def __len__(self) -> int:
        return len(self._all)

    def heard_at(self) -> float:
        """The loop's time at the latest part of a response to a call that runs; -inf: none came."""
        return max((one.heard_at for one in self._all), default=NEVER)

    def take(self) -> Connection | None:
        """Return an idle connection that is open and not about to expire; None if there is none."""
        while self._idle:
            connection, _ = self._idle.popitem()
            idle = connection.loop.time() - connection.idle_since
            if not connection.closed and idle < self._horizon:
                return connection
            connection.abort()
        return None

    async def open(self) -> Connection:
        """Open a new connection. Raises ConnectFailed, ConnectTimeout, OutOfSockets."""
        try:
            async with asyncio.timeout(self._connect):
                return await self._open()
        except TimeoutError:
            raise ConnectTimeout(self._connect or 0) from None
        except ssl.SSLError as error:
            raise ConnectFailed(f"TLS with the worker failed: {error.reason}") from error
        except (OSError, UnicodeError) as error:  # UnicodeError: an empty or too long label
            if is_own_lack(error):
                raise OutOfSockets from error
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
        limits = self.limits
        parser = ResponseParser(limits.max_header_bytes, limits.max_headers, self.functions)
        loop = asyncio.get_running_loop()
        return Connection(loop, parser, self._keep, self._lost, self._alarm)

    def _keep(self, connection: Connection) -> None:
        if self._retired:
            connection.abort()
            return
        connection.idle_since = connection.loop.time()
        self._idle[connection] = None
        if self._reaper is None:
            self._reap_later()

    def _lost(self, connection: Connection) -> None:
        """Forget a closed connection; learn the worker's keep-alive timeout (vLLM: 5 s) from it.

        If the worker closed it while idle, its idle time is that timeout. A call sent at the moment
        of the close would be lost, so `take` skips connections that are nearly that old. The latest
        observation counts: no idle connection outlives the worker's timeout.
        """
        self._all.discard(connection)
        if connection in self._idle:
            del self._idle[connection]
            idle = connection.loop.time() - connection.idle_since
            if idle >= self._shortest:
                self._horizon = min(self._keepalive, idle * 0.8)

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

    def retire(self) -> None:
        """Close idle connections now, and the others as their exchanges end."""
        self._retired = True
        self.close_idle()

    def close_idle(self) -> None:
        """Close the connections that carry no exchange."""
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None
        idle, self._idle = self._idle, {}
        for connection in idle:
            connection.abort()

    def close(self) -> None:
        """Abort all connections, including those in use."""
        self.retire()
        self._alarm.stop()
        for connection in list(self._all):
            connection.abort()


def is_own_lack(error: Exception) -> bool:
    """Whether a connection failed for want of descriptors or memory on this machine."""
    if getattr(error, "errno", None) in OWN_LACK:
        return True
    try:  # the resolver, and several addresses tried at once, report no errno of the system
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as lack:
        return lack.errno in OWN_LACK
    return False


def tls_context(tls: TLS) -> ssl.SSLContext:
    """Create the TLS context for one worker. Raises OSError naming the file that is unusable."""
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
    """Add the file names to an OSError: neither the system nor OpenSSL reports them."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{' with '.join(filter(None, files))}: {error.strerror}") from None
