"""OTLP over HTTP, with messages of protobuf."""

import contextlib
import gzip
import ssl
import time
from email.utils import parsedate_to_datetime

import httpx
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from gateway import ConfigError
from gateway_plugins.otel.environment import Target
from gateway_plugins.otel.exporting.sender import Sent, again, refused

RETRYABLE = frozenset({429, 502, 503, 504})
"""Statuses after which the specification has a client send the same request again."""

MAX_RESPONSE = 64 * 1024
"""Bytes of a response that are read; the others are left, with the connection."""


class HttpSender:
    """Keeps one connection. Raises ConfigError if a file of TLS cannot be read."""

    def __init__(self, target: Target) -> None:
        self._gzip = target.compression == "gzip"
        self._url = target.url
        headers = {**target.headers, "content-type": "application/x-protobuf"}
        if self._gzip:
            headers["content-encoding"] = "gzip"
        self._headers = headers
        # A transport and no client of httpx, which would log each request.
        self._transport = httpx.HTTPTransport(verify=_context(target))

    def send(self, data: bytes, timeout: float) -> Sent:
        body = gzip.compress(data, 1) if self._gzip else data
        try:
            return self._post(body, timeout)
        except httpx.TransportError as error:
            return again(f"{type(error).__name__}: {error}")
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            return refused(type(error).__name__)

    def _post(self, body: bytes, timeout: float) -> Sent:
        ends = time.monotonic() + timeout
        times = {"timeout": httpx.Timeout(timeout).as_dict()}
        request = httpx.Request(
            "POST", self._url, content=body, headers=self._headers, extensions=times
        )
        with contextlib.closing(self._transport.handle_request(request)) as response:
            said = b""
            for part in response.iter_raw(4096):
                said += part
                if len(said) > MAX_RESPONSE or time.monotonic() > ends:
                    break
            return _judged(response, said)

    def close(self) -> None:
        self._transport.close()


def _judged(response: httpx.Response, said: bytes) -> Sent:
    status = response.status_code
    if status in RETRYABLE:
        return again(f"status {status}", _seconds(response.headers.get("retry-after")))
    if not 200 <= status < 300:
        return refused(f"status {status}")
    try:
        partial = ExportTraceServiceResponse.FromString(said).partial_success
    except DecodeError:
        return Sent("taken")  # such as a page of HTML: the status is what counts
    return Sent("taken", partial.error_message[:200], rejected=max(0, partial.rejected_spans))


def _seconds(told: str | None) -> float | None:
    """Read a `retry-after`: seconds, or a date."""
    if told is None:
        return None
    if told.strip().isdecimal():
        return float(told)
    try:
        return max(0.0, parsedate_to_datetime(told).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _context(target: Target) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=target.certificate)
        if target.client_certificate is not None:
            context.load_cert_chain(target.client_certificate, target.client_key)
    except OSError as error:
        raise ConfigError(f"otel: a file of OTEL_EXPORTER_OTLP_...: {error.strerror}") from None
    return context
