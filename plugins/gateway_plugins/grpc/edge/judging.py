"""How an RPC ended, once its call is over."""

from gateway import ENGINE_ERROR, Call
from gateway_plugins.grpc.edge.answers import Answer, Broken, Unsupported, WorkerError
from gateway_plugins.grpc.edge.receiver import Receiver
from gateway_plugins.grpc.status import Code, Status, of_error, of_response

ABORTED = "the call was aborted"
CUT = "the worker's response ended without a finish reason"


def judge(call: Call, receiver: Receiver, answer: Answer, sent: int) -> tuple[Status, list[bytes]]:
    """Return how an RPC ended after `sent` messages, and the last messages if all is well."""
    facts = _facts(call, sent)
    if call.outcome.error is not None:
        return of_error(call.outcome.error, facts), []
    if receiver.status >= 400:
        return of_response(receiver.status, receiver.headers, receiver.body, facts), []
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
    if isinstance(failure, Unsupported):
        reason = "unsupported_by_worker"
        return Status(Code.FAILED_PRECONDITION, message[:1_024], reason, facts=facts)
    if isinstance(failure, WorkerError):
        return _unavailable(message, ENGINE_ERROR, facts)
    if isinstance(failure, Broken):
        return _unavailable(message, "upstream_closed", facts)
    return _unavailable(message, "upstream_protocol_error", facts)


def _unavailable(message: str, reason: str, facts: dict[str, str]) -> Status:
    return Status(Code.UNAVAILABLE, message[:1_024], reason, 0.0, facts=facts)


def _facts(call: Call, sent: int) -> dict[str, str]:
    worker = "" if call.worker is None else call.worker.id
    told = {"request_id": call.id, "model": call.model or "", "worker": worker}
    if sent:
        told["messages_sent"] = str(sent)
    return {name: value[:200] for name, value in told.items() if value}
