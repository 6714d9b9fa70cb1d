"""OTLP over gRPC. Nothing imports this module before the process has forked."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from gateway import ConfigError
from gateway_plugins.otel.environment import Target
from gateway_plugins.otel.exporting.sender import Sent, again, refused

METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"

RETRYABLE = frozenset(
    {"CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS"}
    | {"RESOURCE_EXHAUSTED"}
)
"""Codes after which the specification has a client send the same request again."""

PORT = 4317

DIRECT = (("grpc.enable_http_proxy", 0),)
"""No proxy of the environment, as over HTTP."""


class GrpcSender:
    """Keeps one channel. Raises ConfigError if a file of TLS cannot be read."""

    def __init__(self, target: Target) -> None:
        parts = urlsplit(target.url)
        host = parts.hostname or ""
        address = f"{f'[{host}]' if ':' in host else host}:{parts.port or PORT}"
        packed = grpc.Compression.Gzip if target.compression == "gzip" else None
        if parts.scheme == "https":
            keys = _credentials(target)
            self._channel = grpc.secure_channel(address, keys, DIRECT, compression=packed)
        else:
            self._channel = grpc.insecure_channel(address, DIRECT, compression=packed)
        self._metadata = tuple(target.headers.items())
        self._export: Callable[..., Any] = self._channel.unary_unary(METHOD)

    def send(self, data: bytes, timeout: float) -> Sent:
        try:
            said = self._export(data, timeout=timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            code = error.code().name
            return again(code) if code in RETRYABLE else refused(code)
        except ValueError as error:  # a header that gRPC does not allow, or a closed channel
            return refused(type(error).__name__)
        try:
            partial = ExportTraceServiceResponse.FromString(said).partial_success
        except DecodeError:
            return Sent("taken")
        return Sent("taken", partial.error_message[:200], rejected=max(0, partial.rejected_spans))

    def close(self) -> None:
        self._channel.close()


def _credentials(target: Target) -> Any:
    names = (target.certificate, target.client_key, target.client_certificate)
    try:
        roots, key, chain = (None if one is None else Path(one).read_bytes() for one in names)
    except OSError as error:
        raise ConfigError(f"otel: a file of OTEL_EXPORTER_OTLP_...: {error.strerror}") from None
    return grpc.ssl_channel_credentials(roots, key, chain)
