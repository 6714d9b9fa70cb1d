"""One attempt at one worker: a connection, the request, and the relay of the response."""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic

from gateway.calls.call import Call
from gateway.calls.observers import UNOBSERVED
from gateway.calls.records import Attempt, Continued
from gateway.config import Config
from gateway.errors import (
    BodyTimeout,
    BodyTooLarge,
    CallError,
    ConnectFailed,
    GatewayError,
    InvalidHTTP,
    OutOfSockets,
    UpstreamClosed,
    UpstreamError,
    UpstreamTimeout,
)
from gateway.fleet.worker import Worker
from gateway.headers import Headers
from gateway.pipeline.exchange import Exchange, Part
from gateway.pipeline.failover import Failure, may_run_again
from gateway.pipeline.local import LocalWorker
from gateway.pipeline.migration.continued import ContinuedRelay, Isolated
from gateway.pipeline.refused import WorkerRefused
from gateway.pipeline.relay import Relay
from gateway.telemetry.trace_context import traced_headers
from gateway.upstream.connection import Connection
from gateway.upstream.delivery import ClosedBeforeDelivery
from gateway.upstream.pool import Pool
from gateway.upstream.request import upload
from gateway.wire.apis.token_api import GENERATE
from gateway.wire.injection import NO_INJECTIONS
from gateway.wire.reported.ending import ENGINE_ERROR, FINISHED

NO_FAULT = (401, 403, 404, 429)
"""Statuses that need not be the worker's fault but may be; other 4xx are the caller's."""

NOT_OF_THE_WORKER = (BodyTooLarge, BodyTimeout, InvalidHTTP, OutOfSockets)
"""Errors that end an attempt and are the caller's or the gateway's own."""

OF_THE_WORKER = (UpstreamError, UpstreamTimeout, WorkerRefused)
"""Failures after which another worker may carry a stream on."""

Choose = Callable[[Exchange, list[Worker]], Awaitable[Worker | None]]


async def try_once(exchange: Exchange, attempt: Attempt, settings: Config) -> bytes:
    """Send the call to the attempt's worker and relay the response but for its last bytes.

    Returns those bytes. Raises the CallError that ended the attempt, CallerGone, or HeldBack.

    Workers close kept connections at any time (vLLM after 5 s). If a kept connection ends before
    the first byte of the response, the request is sent once more on a new connection, provided that
    the worker had closed it before the request arrived or that the call may run twice. That is no
    failure of the worker.
    """
    worker = attempt.worker
    if not worker.remote and isinstance(worker, LocalWorker):
        return await worker.run(exchange, attempt, settings)
    body = exchange.prepare_body(attempt)
    pool = worker.pool
    head = _head(exchange, attempt, body)  # before any wait: host and key may change
    kept = pool.take() if body is not None else None  # a body that streams cannot be sent twice
    attempt.reused = kept is not None
    connection = kept or await _opened(pool, attempt, monotonic())
    while True:
        made = Relay if exchange.call.continuation is None else ContinuedRelay
        relay = made(exchange, attempt, connection, settings)
        attempt.sent = monotonic()
        attempt.connected = attempt.started if attempt.reused else attempt.sent
        sending = None
        if body is not None:
            relay.await_first_byte()
            connection.begin(relay, head + body, head_only=exchange.call.method == "HEAD")
        else:
            sending = _upload(exchange, attempt, relay, connection, head, settings)
        try:
            rest = await relay.done
            if attempt.status == 200 and exchange.call.dialect is GENERATE:
                worker.scale_out.note_served()
            return rest
        except UpstreamClosed as error:
            if not (attempt.reused and _may_be_sent_again(error, exchange, connection, settings)):
                raise
        finally:
            if sending is not None:
                sending.cancel()
            if not relay.complete:
                connection.abandon(relay)
            relay.close()
        attempt.reused = False
        connection = await _opened(pool, attempt, attempt.sent)


async def _opened(pool: Pool, attempt: Attempt, began: float) -> Connection:
    """Open a connection; the time since `began` was spent on it."""
    try:
        return await pool.open()
    finally:
        attempt.connecting += monotonic() - began


def _may_be_sent_again(
    error: UpstreamClosed, exchange: Exchange, kept: Connection, settings: Config
) -> bool:
    if isinstance(error, ClosedBeforeDelivery):
        return True
    return not kept.response_started and may_run_again(exchange.call, settings.failover)


def _upload(
    exchange: Exchange,
    attempt: Attempt,
    relay: Relay,
    connection: Connection,
    head: bytes,
    settings: Config,
) -> asyncio.Task[None]:
    """Send the head, then the body as it arrives from the caller."""
    call = exchange.call
    connection.begin(relay, head, head_only=call.method == "HEAD", more=True)
    sending = _send_body(call, attempt, connection, relay, settings.timeouts.idle)
    return asyncio.create_task(sending)


async def carried_on(
    exchange: Exchange, part: Part, failure: Failure | None, choose: Choose, settings: Config
) -> bytes | None:
    """Return the last bytes of the stream, of which `part` was sent before `failure`.

    None if no worker can carry it on. `choose` takes a slot of a worker that was not tried.
    """
    while isinstance(failure, OF_THE_WORKER):
        rest = None
        with Isolated(exchange, "rest") as asking:
            rest = _rest(exchange, part)
        if rest is not None:
            return rest
        if asking.failed:
            break
        worker = await _chosen(exchange, choose)
        if worker is None:
            break
        exchange.call.tried.append(worker)
        try:
            request = await _request(exchange, worker)
            if request is None:
                break
            return await _attempt(exchange, worker, request, settings)
        except (CallError, WorkerRefused) as error:
            failure = error
        finally:
            worker.end()
    if part.release is not None:
        part.release()
    return None


def _rest(exchange: Exchange, part: Part) -> bytes | None:
    """Return the last bytes of a stream of which only the end is missing, else None."""
    continuation = exchange.call.continuation
    rest = None if continuation is None else continuation.rest()
    if rest is None:
        return None
    last = part.reader.feed(rest) + part.reader.close()
    exchange.call.outcome.ending = FINISHED
    return last


async def _chosen(exchange: Exchange, choose: Choose) -> Worker | None:
    try:
        worker = await choose(exchange, exchange.call.tried)
    except CallError:  # no worker has the model, or a hook lets the call in nowhere
        worker = None
    if worker is None:
        words = "the stream was not migrated: no other worker can take the call now"
        exchange.call.note("worker_broke_off", words)
    return worker


async def _request(exchange: Exchange, worker: Worker) -> Continued | None:
    call = exchange.call
    if call.continuation is None:
        return None
    with Isolated(exchange, "resume"):  # after a mistake the stream breaks off as without a plugin
        return await call.continuation.resume(worker)
    return None


async def _attempt(
    exchange: Exchange, worker: Worker, request: Continued, settings: Config
) -> bytes:
    attempt = Attempt(worker, monotonic(), weight_version=worker.weight_version)
    exchange.call.attempts.append(attempt)
    try:
        return await _try_to_resume(exchange, attempt, request, settings)
    except CallError as error:
        if not isinstance(error, NOT_OF_THE_WORKER):
            attempt.error = error
        raise
    finally:
        end(attempt)
        rest = exchange.chains.run_attempt_finished(exchange.call, attempt)
        if rest is not None:
            await exchange.cancel_scope.shielded(rest)


async def _try_to_resume(
    exchange: Exchange, attempt: Attempt, request: Continued, settings: Config
) -> bytes:
    """Have the attempt's worker carry on a stream that broke off, as `request` says.

    Returns the last bytes of the response. Raises as `try_once`.
    """
    worker, body = attempt.worker, request.body
    head = worker.head.fill(
        "POST",
        worker.target(request.path, b""),
        _headers(exchange, attempt),
        exchange.call.id,
        len(body),
        readable=True,
    )
    connection = await _opened(worker.pool, attempt, monotonic())
    relay = ContinuedRelay(exchange, attempt, connection, settings)
    attempt.sent = attempt.connected = monotonic()
    relay.await_first_byte()
    connection.begin(relay, head + body, head_only=False)
    try:
        return await relay.done
    finally:
        if not relay.complete:
            connection.abandon(relay)
        relay.close()


def _headers(exchange: Exchange, attempt: Attempt) -> Headers:
    call = exchange.call
    if exchange.traceparent is not None:
        return [*call.headers, exchange.traceparent]
    if not exchange.chains.traced:
        return call.headers
    context = call.trace_context
    span_id = attempt.span_id if context.sampled else context.span_id
    return traced_headers(call.headers, context, span_id)


def _head(exchange: Exchange, attempt: Attempt, body: bytes | None) -> bytes:
    call, worker, observers = exchange.call, attempt.worker, exchange.observers
    return worker.head.fill(
        call.method,
        worker.target(call.path, call.query),
        _headers(exchange, attempt),
        call.id,
        call.body.length if body is None else len(body),
        readable=exchange.stripper is not None
        or (observers is not UNOBSERVED and observers.needs_body)
        or exchange.reply.waiting
        or call.translated_from is not None
        or call.continuation is not None,
    )


async def _send_body(
    call: Call,
    attempt: Attempt,
    connection: Connection,
    relay: Relay,
    idle_timeout: float | None,
) -> None:
    chunked = call.body.length is None
    try:
        await upload(call.body.stream(), connection, chunked=chunked, idle_timeout=idle_timeout)
    except GatewayError as error:  # too large, too slow, or the caller has gone
        relay.on_error(error)
    else:
        if not relay.done.done():
            attempt.uploading = monotonic() - (attempt.sent or attempt.started)
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
