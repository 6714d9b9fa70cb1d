"""One attempt at one worker: a connection, the request, and the relay of the response."""

import asyncio
from time import monotonic

from gateway.calls.call import Call
from gateway.calls.records import Attempt
from gateway.config import Config
from gateway.errors import GatewayError, UpstreamClosed
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.failover import may_run_again
from gateway.pipeline.local import LocalWorker
from gateway.pipeline.relay import Relay
from gateway.upstream.connection import Connection
from gateway.upstream.delivery import ClosedBeforeDelivery
from gateway.upstream.request import upload


async def try_once(exchange: Exchange, attempt: Attempt, settings: Config) -> bytes:
    """Send the call to the attempt's worker and relay the response but for its last bytes.

    Returns those bytes. Raises the CallError that ended the attempt, CallerGone, or HeldBack.

    Workers close kept connections at any time (vLLM after 5 s). If a kept connection ends before
    the first byte of the response, the request is sent once more on a new connection, provided that
    the worker had closed it before the request arrived or that the call may run twice. That is no
    failure of the worker.
    """
    if isinstance(attempt.worker, LocalWorker):
        return await attempt.worker.run(exchange, attempt, settings)
    body = exchange.prepare_body(attempt)
    pool = attempt.worker.pool
    head = _head(exchange, attempt, body)  # before any wait: host and key may change
    kept = pool.take() if body is not None else None  # a body that streams cannot be sent twice
    if kept is not None:
        attempt.reused = True
        try:
            return await _send(exchange, attempt, settings, kept, head, body)
        except ClosedBeforeDelivery:
            pass
        except UpstreamClosed:
            if kept.response_started or not may_run_again(exchange.call, settings.failover):
                raise
        attempt.reused = False
    fresh = await pool.open()
    return await _send(exchange, attempt, settings, fresh, head, body)


async def _send(
    exchange: Exchange,
    attempt: Attempt,
    settings: Config,
    connection: Connection,
    head: bytes,
    body: bytes | None,
) -> bytes:
    relay = Relay(exchange, attempt, connection, settings)
    attempt.connected = monotonic()
    head_only = exchange.call.method == "HEAD"
    sending = None
    if body is not None:
        connection.begin(relay, head + body, head_only=head_only, more=False)
        relay.await_first_byte()
    else:
        connection.begin(relay, head, head_only=head_only, more=True)
        idle_timeout = settings.timeouts.idle
        sending = asyncio.create_task(_send_body(exchange.call, connection, relay, idle_timeout))
    try:
        return await relay.done
    finally:
        if sending is not None:
            sending.cancel()
        connection.abandon(relay)
        relay.close()


def _head(exchange: Exchange, attempt: Attempt, body: bytes | None) -> bytes:
    call, worker = exchange.call, attempt.worker
    return worker.head.fill(
        call.method,
        worker.target(call.path, call.query),
        call.headers,
        call.id,
        call.body.length if body is None else len(body),
        readable=exchange.stripper is not None
        or exchange.observers.needs_body
        or exchange.reply.waiting,
    )


async def _send_body(
    call: Call, connection: Connection, relay: Relay, idle_timeout: float | None
) -> None:
    chunked = call.body.length is None
    try:
        await upload(call.body.stream(), connection, chunked=chunked, idle_timeout=idle_timeout)
    except GatewayError as error:  # too large, too slow, or the caller has gone
        relay.on_error(error)
    else:
        relay.await_first_byte()
