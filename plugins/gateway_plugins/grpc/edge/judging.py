"""How an RPC ended, once its call is over."""

from gateway import ENGINE_ERROR, Call
from gateway_plugins.grpc.edge.answers import Answer, Broken, WorkerError
from gateway_plugins.grpc.edge.receiver import Receiver
from gateway_plugins.grpc.status import Code, Status, of_error, of_response

ABORTED = "the call was aborted"


def judge(call: Call, receiver: Receiver, answer: Answer, sent: int) -> tuple[Status, list[bytes]]:
    """Return how an RPC ended after `sent` messages, and the last messages if all is well."""
    facts = _facts(call, sent)
    if call.outcome.error is not None:
        return of_error(call.outcome.error, facts), []
    if receiver.status >= 400:
        return of_response(receiver.status, receiver.headers, receiver.body, facts), []
    if isinstance(receiver.failure, WorkerError):
        return _unavailable(str(receiver.failure), ENGINE_ERROR, facts), []
    if receiver.failure is not None:
        return _unavailable(str(receiver.failure), "upstream_protocol_error", facts), []
    if not receiver.ended:
        return Status(Code.CANCELLED, ABORTED, "aborted", facts=facts), []
    try:
        return Status(Code.OK, facts=facts), answer.finish()
    except Broken as error:
        return _unavailable(str(error), "upstream_closed", facts), []


def _unavailable(message: str, reason: str, facts: dict[str, str]) -> Status:
    return Status(Code.UNAVAILABLE, message[:1_024], reason, 0.0, facts=facts)


def _facts(call: Call, sent: int) -> dict[str, str]:
    worker = "" if call.worker is None else call.worker.id
    told = {"request_id": call.id, "model": call.model or "", "worker": worker}
    if sent:
        told["messages_sent"] = str(sent)
    return {name: value[:200] for name, value in told.items() if value}
