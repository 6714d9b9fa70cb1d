"""The options of the plugin."""

from typing import Annotated

import msgspec
from msgspec import Meta

from gateway_plugins.grpc.services.llm.request import EmptySystem


class Tls(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Files in PEM, which are read again when they change."""

    cert: Annotated[str, Meta(min_length=1)]
    key: Annotated[str, Meta(min_length=1)]
    client_ca: str | None = None
    require_client_cert: bool = False


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where gRPC is served, and how its requests become calls.

    `host` is that of the gateway if it is None. `insecure` permits plaintext beyond this machine.
    `connect`: the HTTP port has the same methods, for Connect and gRPC-Web.
    `keepalive` and `max_connection_age` are seconds.
    """

    port: Annotated[int, Meta(ge=0, le=65535)] = 50052
    host: Annotated[str, Meta(min_length=1)] | None = None
    insecure: bool = False
    tls: Tls | None = None
    default_model: Annotated[str, Meta(min_length=1)] | None = None
    empty_system: EmptySystem = "leave_out"
    reflection: bool = False
    connect: bool = True
    log_calls: bool = True
    keepalive: Annotated[float, Meta(ge=1, le=3600)] = 60.0
    max_connection_age: Annotated[float, Meta(ge=1, le=86400)] = 600.0
    max_streams: Annotated[int, Meta(ge=1, le=100_000)] = 1_000
