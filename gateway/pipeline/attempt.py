"""One attempt at one worker: a connection, the request, and the relay of the response."""

import asyncio
from time import monotonic

from gateway.calls.call import Call
from gateway.calls.records import Attempt
from gateway.config import Config
from gateway.errors import ConnectFailed, GatewayError, UpstreamClosed
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.failover import may_run_again
from gateway.pipeline.local import LocalWorker
from gateway.pipeline.relay import Relay
from gateway.upstream.connection import Connection
from gateway.upstream.delivery import ClosedBeforeDelivery
from gateway.upstream.request import upload
from gateway.wire.injection import NO_INJECTIONS
from gateway.wire.reported.ending import ENGINE_ERROR

NO_FAULT = (401, 403, 404, 429)
"""Statuses that need not be the worker's fault but may be; other 4xx are the caller's."""


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


def end(attempt: Attempt) -> None:
    """Complete the record of the attempt, and its worker's."""
    worker, status = attempt.worker, attempt.status
    attempt.ended = ended = monotonic()
    attempt.weight_version_end = worker.weight_version
    if attempt.ending.fault:
        worker.record_failure(ended - attempt.started, ENGINE_ERROR)
    elif attempt.error is None and status is not None and status < 400:
        if attempt.first_byte is not None:
            ttft, duration = attempt.first_byte - attempt.started, ended - attempt.started
            worker.record_times(ttft, duration, ended)
    elif attempt.error is not None:
        worker.record_failure(ended - attempt.started, attempt.error.code)
        worker.report(attempt.error)
        attempt.refused = isinstance(attempt.error, ConnectFailed) and not worker.fit
    elif status is not None and (status >= 500 or status in NO_FAULT):
        fault = None if status in NO_FAULT else f"status {status}"
        worker.record_failure(ended - attempt.started, fault)


def learn_injections(exchange: Exchange, attempt: Attempt) -> None:
    """Remember which injections the worker accepts, and which it rejects."""
    dialect, stripper = exchange.call.dialect, exchange.stripper
    if dialect is not None and attempt.status is not None and attempt.status < 400:
        taken = stripper.injected if stripper is not None else NO_INJECTIONS
        refusals = attempt.worker.refusals
        refusals.learn(dialect.name, exchange.asked, taken, attempt.left_out)
