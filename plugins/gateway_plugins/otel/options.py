"""The options of the plugin."""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Protocol = Literal["http", "grpc"]

Compression = Literal["none", "gzip"]

MAX_TIMEOUT = 300
"""Maximum seconds for one request."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where spans go, which calls have them, and what is in them.

    `endpoint` to `timeout` come from the variables OTEL_EXPORTER_OTLP_... where they are None or
    empty, see environment.py. An `endpoint` of HTTP without a path gets `/v1/traces`. `timeout` and
    `flush_timeout` are seconds. `ratio`: the share of the calls that begin a trace which is
    recorded; other calls follow their callers. `max_waiting`: calls whose spans wait to be sent.
    `service_name` and `resource` describe the gateway. `provider`: the `gen_ai.provider.name` of
    all calls; None: that of the API. `content`: messages too, each of the two attributes up to
    `max_content` characters.
    """

    endpoint: Annotated[str, Meta(min_length=1)] | None = None
    protocol: Protocol | None = None
    headers: Mapping[str, str] = {}
    compression: Compression | None = None
    timeout: Annotated[float, Meta(gt=0, le=MAX_TIMEOUT)] | None = None
    flush_timeout: Annotated[float, Meta(ge=0, le=60)] = 5.0
    ratio: Annotated[float, Meta(ge=0, le=1)] = 1.0
    max_waiting: Annotated[int, Meta(ge=1, le=100_000)] = 2_000
    service_name: Annotated[str, Meta(min_length=1)] | None = None
    resource: Mapping[str, str] = {}
    provider: Annotated[str, Meta(min_length=1)] | None = None
    content: bool = False
    max_content: Annotated[int, Meta(ge=1, le=1_000_000)] = 16_384
