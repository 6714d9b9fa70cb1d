"""A collector of our own: takes OTLP over HTTP or gRPC on a real socket, and answers as told."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from support.ports import free_port


class Reply(msgspec.Struct):
    """How requests are answered; with the status 0 the connection breaks instead."""

    status: int = 200
    headers: dict[str, str] = {}
    body: bytes = b""


class Collector:
    """What has come: the `headers` of all requests, and the `requests` that were answered 200.

    While `held` is not set, requests wait for their reply. The `first` requests get these replies,
    all others `reply`.
    """

    def __init__(self) -> None:
        self.first: list[Reply] = []
        self.reply = Reply()
        self.url = ""
        self.headers: list[dict[str, str]] = []
        self.requests: list[Any] = []
        self.held = threading.Event()
        self.held.set()
        self._came = threading.Condition()

    def take(self, headers: dict[str, str], data: bytes) -> Reply:
        """Note a request; its spans count only if the reply is good."""
        self.held.wait(30)
        reply = self.first.pop(0) if self.first else self.reply
        request = ExportTraceServiceRequest.FromString(data)
        with self._came:
            self.headers.append(headers)
            if reply.status == 200:
                self.requests.append(request)
            self._came.notify_all()
        return reply

    @property
    def spans(self) -> list[Any]:
        scopes = (
            scope
            for one in self.requests
            for part in one.resource_spans
            for scope in part.scope_spans
        )
        return [span for scope in scopes for span in scope.spans]

    def wait(self, spans: int = 0, requests: int = 0, seconds: float = 15) -> list[Any]:
        """Wait for so many spans, or requests whatever the reply; returns all spans."""
        with self._came:
            enough = self._came.wait_for(
                lambda: len(self.spans) >= spans and len(self.headers) >= requests, seconds
            )
            assert enough, f"{len(self.spans)} spans in {len(self.headers)} requests"
            return self.spans


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    collector: Collector

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            data = gzip.decompress(data)
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = self.collector.take({**headers, ":path": self.path}, data)
        if reply.status == 0:
            self.close_connection = True
            return
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A gateway that ends breaks its connection off."""


@contextmanager
def collecting(port: int = 0) -> Iterator[Collector]:
    """A collector over HTTP."""
    collector = Collector()
    handler = type("Handler", (_Handler,), {"collector": collector})
    with _Server(("127.0.0.1", port), handler) as server:
        collector.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield collector
        finally:
            collector.held.set()
            server.shutdown()
            thread.join()


@contextmanager
def collecting_over_grpc() -> Iterator[Collector]:
    """A collector over gRPC; a reply with another status than 200 is UNAVAILABLE."""
    from concurrent.futures import ThreadPoolExecutor

    import grpc

    collector = Collector()

    def export(data: bytes, context: Any) -> bytes:
        metadata = {one.key: str(one.value) for one in context.invocation_metadata()}
        if collector.take(metadata, data).status != 200:
            context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        said: bytes = ExportTraceServiceResponse().SerializeToString()
        return said

    methods = {"Export": grpc.unary_unary_rpc_method_handler(export)}
    service = "opentelemetry.proto.collector.trace.v1.TraceService"
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
    port = server.add_insecure_port(f"127.0.0.1:{free_port()}")
    collector.url = f"http://127.0.0.1:{port}"
    server.start()
    try:
        yield collector
    finally:
        collector.held.set()
        server.stop(0).wait()


def told(span: Any) -> dict[str, Any]:
    """The attributes of a span or an event, as values of Python."""
    return {one.key: _value(one.value) for one in span.attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    found = getattr(value, kind)
    return [_value(one) for one in found.values] if kind == "array_value" else found
