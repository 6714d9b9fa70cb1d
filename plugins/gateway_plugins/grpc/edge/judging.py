"""How an RPC ended, once its call is over."""

import msgspec
from msgspec.structs import replace

from gateway import ENGINE_ERROR, Call, retry_after
from gateway_plugins.grpc.edge.answers import Answer, Broken, Bug, Unsupported, WorkerError
from gateway_plugins.grpc.edge.receiver import Receiver
from gateway_plugins.grpc.status import (
    MAX_MESSAGE,
    MAX_TEXT,
    Code,
    Status,
    clipped,
    of_error,
    of_response,
)

ABORTED = "the call was aborted"
CUT = "the worker's response ended without a finish reason"


def judge(call: Call, receiver: Receiver, answer: Answer, sent: int) -> tuple[Status, list[bytes]]:
    """Return how an RPC ended after `sent` messages, and the last messages if all is well."""
    status, last = _judged(call, receiver, answer, _facts(call, sent))
    if sent and status.retry_after is not None:
        status = replace(status, retry_after=None)  # what has been sent would come twice
    return status, last


def _judged(
    call: Call, receiver: Receiver, answer: Answer, facts: dict[str, str]
) -> tuple[Status, list[bytes]]:
    if call.outcome.error is not None:
        return of_error(call.outcome.error, facts), []
    if receiver.status >= 400:
        return of_response(receiver.status, receiver.headers, receiver.body, facts), []
    if isinstance(receiver.failure, WorkerError):
        return _of_worker(call, str(receiver.failure), facts), []
    if receiver.failure is not None:
        return _of_failure(receiver.failure, facts), []
    if not receiver.ended:
        return Status(Code.CANCELLED, ABORTED, "aborted", facts=facts), []
    ending = call.outcome.ending
    if ending.error is not None:
        return _unavailable(ending.error, ENGINE_ERROR, facts), []
    if receiver.streams and ending.finished is False:
        return _of_failure(Broken(CUT), facts), []
    try:
        return Status(Code.OK, facts=facts), answer.finish()
    except (Broken, Unsupported) as error:
        return _of_failure(error, facts), []


def _of_failure(failure: Exception, facts: dict[str, str]) -> Status:
    """Return the status of a response that was not what it has to be."""
    message = str(failure)
    if isinstance(failure, Bug):
        return Status(Code.INTERNAL, message, "internal_error", facts=facts)
    if isinstance(failure, Unsupported):
        reason = "unsupported_by_worker"
        told = clipped(message, MAX_MESSAGE)
        return Status(Code.FAILED_PRECONDITION, told, reason, facts=facts)
    if isinstance(failure, Broken):
        return _unavailable(message, "upstream_closed", facts)
    return _unavailable(message, "upstream_protocol_error", facts)


def _of_worker(call: Call, message: str, facts: dict[str, str]) -> Status:
    """Return the status of an error in a stream; comments may have been sent before a response."""
    status = (call.attempts[-1].status or 0) if call.attempts else 0
    if status >= 400:
        return of_response(status, (), msgspec.json.encode({"error": message}), facts)
    return _unavailable(message, ENGINE_ERROR, facts)


def _unavailable(message: str, reason: str, facts: dict[str, str]) -> Status:
    after = retry_after(0)
    return Status(Code.UNAVAILABLE, clipped(message, MAX_MESSAGE), reason, after, facts=facts)


def _facts(call: Call, sent: int) -> dict[str, str]:
    worker = "" if call.worker is None else call.worker.id
    told = {"request_id": call.id, "model": call.model or "", "worker": worker}
    if sent:
        told["messages_sent"] = str(sent)
    return {name: clipped(value, MAX_TEXT) for name, value in told.items() if value}
