"""The trailing metadata of an RPC: what programs read about its end."""

from gateway_plugins.grpc.messages import Messages
from gateway_plugins.grpc.status import MAX_TEXT, Code, Status, clipped

DOMAIN = "llm-call-gateway"
"""The `domain` of each ErrorInfo."""

NO_ROOM = frozenset(("queue_full", "queue_timeout", "too_many_calls"))
"""Reasons for which a call is refused though its caller has exceeded no limit of its own."""

TYPE_URL = "type.googleapis.com/google.rpc."


def packed(messages: Messages, status: Status) -> bytes:
    """Return the google.rpc.Status, as `grpc-status-details-bin` has it."""
    whole = messages.type("google.rpc.Status")(code=status.code, message=status.message)
    for name, detail in details_of(messages, status):
        whole.details.add(type_url=TYPE_URL + name, value=detail)
    data: bytes = whole.SerializeToString()
    return data


def details_of(messages: Messages, status: Status) -> list[tuple[str, bytes]]:
    """Return the details of a failure: the name of each in google.rpc, and its bytes."""
    kind = messages.type("google.rpc.ErrorInfo")
    told = clipped(status.message, MAX_TEXT)
    reason = status.reason.upper()
    made = [("ErrorInfo", kind(reason=reason, domain=DOMAIN, metadata=dict(status.facts)))]
    if status.retry_after is not None:
        retry = messages.type("google.rpc.RetryInfo")()
        retry.retry_delay.FromMilliseconds(round(status.retry_after * 1000))
        made.append(("RetryInfo", retry))
    if status.code is Code.RESOURCE_EXHAUSTED and _is_limit(status):
        quota = messages.type("google.rpc.QuotaFailure")()
        quota.violations.add(subject=status.reason, description=told)
        made.append(("QuotaFailure", quota))
    if status.code is Code.INVALID_ARGUMENT and status.field:
        bad = messages.type("google.rpc.BadRequest")()
        bad.field_violations.add(field=status.field, description=told)
        made.append(("BadRequest", bad))
    if status.code is Code.NOT_FOUND and "model" in status.facts:
        resource = messages.type("google.rpc.ResourceInfo")
        made.append(
            ("ResourceInfo", resource(resource_type="model", resource_name=status.facts["model"]))
        )
    return [(name, detail.SerializeToString()) for name, detail in made]


def _is_limit(status: Status) -> bool:
    return status.retry_after is not None and status.reason not in NO_ROOM


def trailers(messages: Messages, status: Status, sent: int) -> list[tuple[str, str | bytes]]:
    """Return the trailing metadata of an RPC that ended after `sent` messages.

    `grpc-retry-pushback-ms` is what clients with a retry policy obey: -1 forbids a retry.
    """
    lines: list[tuple[str, str | bytes]] = []
    if request_id := status.facts.get("request_id"):
        lines.append(("x-request-id", request_id))
    if status.code is Code.OK:
        return lines
    lines.append(("grpc-status-details-bin", packed(messages, status)))
    helps = status.retry_after is not None and not (sent or status.final)
    pushback = round((status.retry_after or 0) * 1000) if helps else -1
    lines.append(("grpc-retry-pushback-ms", str(pushback)))
    return lines
