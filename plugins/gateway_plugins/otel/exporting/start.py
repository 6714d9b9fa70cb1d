"""Joins the parts of the exporter, in the process that serves."""

import os
from functools import partial
from importlib.metadata import version
from uuid import uuid4

from gateway_plugins.otel.content import Redact, content_of
from gateway_plugins.otel.environment import Target, is_former, resource_of
from gateway_plugins.otel.exporting.exporter import Convert, Exporter, Frame
from gateway_plugins.otel.exporting.over_http import HttpSender
from gateway_plugins.otel.exporting.sender import Sender
from gateway_plugins.otel.options import Options
from gateway_plugins.otel.record import FinishedCall
from gateway_plugins.otel.spans.conventions import GenAi
from gateway_plugins.otel.spans.encoding import attribute, field, utf8
from gateway_plugins.otel.spans.spans import spans_of

SCOPE = "gateway_plugins.otel"

RESOURCE = b"\x0a"
"""Tag of an attribute in a resource."""


def exporter_of(options: Options, target: Target, redact: Redact | None) -> Exporter:
    """Return an exporter that is not started. Raises ConfigError if a file cannot be read."""
    gen_ai = GenAi(is_former(os.environ), options.provider)
    return Exporter(
        _sender(target),
        _converter(gen_ai, redact, options.max_content),
        _frame(options),
        where=f"the collector at {target.shown}",
        most=options.max_waiting,
        timeout=target.timeout,
    )


def _sender(target: Target) -> Sender:
    if target.protocol == "http":
        return HttpSender(target)
    from gateway_plugins.otel.exporting.over_grpc import GrpcSender

    return GrpcSender(target)


def _converter(gen_ai: GenAi, redact: Redact | None, most: int) -> Convert:
    if redact is None:
        return partial(spans_of, gen_ai=gen_ai)

    def convert(call: FinishedCall) -> list[bytes]:
        spans = spans_of(call, gen_ai)
        spoken = content_of(call, redact, most)
        for latest, value in (
            ("gen_ai.input.messages", spoken.input),
            ("gen_ai.output.messages", spoken.output),
        ):
            if value is not None and (name := gen_ai.name(latest)) is not None:
                spans[0] += attribute(name, value)
        return spans

    return convert


def _frame(options: Options) -> Frame:
    """What all spans of this process share."""
    own = version("llm-call-gateway")
    told = {
        "telemetry.sdk.language": "python",
        "telemetry.sdk.name": "gateway",
        "telemetry.sdk.version": own,
        "service.version": own,
        "service.instance.id": str(uuid4()),
        **resource_of(options, os.environ),
    }
    attributes = [attribute(name, value, RESOURCE) for name, value in told.items()]
    attributes.append(attribute("process.pid", os.getpid(), RESOURCE))
    scope = field(b"\x0a", utf8(SCOPE)) + field(b"\x12", utf8(own))
    return Frame(field(b"\x0a", b"".join(attributes)), field(b"\x0a", scope))
