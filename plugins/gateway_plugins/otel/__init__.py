"""Spans for OpenTelemetry: one for each call and each attempt, sent to a collector by OTLP.

`record.py` is what the event loop takes from a call when it ends, `parameters.py` reads the
sampling parameters of it. `response.py` keeps what a response says of itself, `content.py` its
messages if that is wanted. `spans` makes messages of OTLP of these, `exporting` sends them from a
thread. `options.py` has the options, `environment.py` the variables of OpenTelemetry.

The messages are written here, byte by byte: OpenTelemetry's SDK takes thirty times as long, and the
objects of opentelemetry-proto five times. Nothing global is installed.
"""

import contextlib
import os
from asyncio import to_thread
from collections.abc import AsyncIterator, Iterator
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

from gateway import (
    Call,
    ConfigError,
    Host,
    Outcome,
    Sample,
    StateKey,
    Trace,
    hookimpl,
)
from gateway_plugins.otel.content import Heard
from gateway_plugins.otel.environment import target_of
from gateway_plugins.otel.options import Options
from gateway_plugins.otel.record import record_of
from gateway_plugins.otel.response import Watched

if TYPE_CHECKING:
    from gateway_plugins.otel.exporting.exporter import Exporter

WATCHED: StateKey[Watched] = StateKey("otel")


class Otel:
    """The plugin."""

    Config = Options

    def __init__(self, config: Options) -> None:
        self._target = target_of(config, os.environ)
        _require("opentelemetry.proto", "otel")
        if self._target.protocol == "grpc":
            _require("grpc", "otel,grpc")
        self._config = config
        self._content = config.content
        self._gateway: Host | None = None
        self._exporter: Exporter | None = None

    @hookimpl
    def trace_ratio(self) -> float:
        return self._config.ratio

    @hookimpl
    def observe(self, call: Call) -> Watched | None:
        if not call.trace_context.sampled:
            return None
        call.count_tokens()
        watched = call.state[WATCHED] = (Heard if self._content else Watched)(call.streams)
        return watched

    @hookimpl
    def call_finished(self, call: Call, outcome: Outcome) -> None:
        if call.trace_context.sampled and self._exporter is not None:
            content = call.body.readable if self._content else None
            self._exporter.put(record_of(call, outcome, call.state.get(WATCHED), content))

    @hookimpl
    @contextlib.asynccontextmanager
    async def lifespan(self, gateway: Host) -> AsyncIterator[None]:
        # Not before: the library of gRPC must not be touched before processes have forked.
        from gateway_plugins.otel.exporting.start import exporter_of

        self._gateway = gateway
        redact = self._redact if self._content else None
        self._exporter = exporter_of(self._config, self._target, redact)
        self._exporter.start()
        try:
            yield
        finally:
            await to_thread(partial(self._exporter.end, self._config.flush_timeout))

    def _redact(self, trace: Trace) -> Trace | None:
        """Run the hooks in the exporter's thread; a failure is counted, and keeps content back."""
        assert self._gateway is not None  # `lifespan` has set it
        for hook in self._gateway.hooks("redact_trace"):
            try:
                trace = hook.run(trace) or trace
            except Exception as error:  # noqa: BLE001  the failure is counted
                self._gateway.failures.note(hook.plugin, "redact_trace", Outcome(), error)
                return None
        return trace

    @hookimpl
    def samples(self) -> Iterator[Sample]:
        exporter = self._exporter
        if exporter is None:
            return
        help_ = "Spans that the collector has taken."
        yield Sample("gateway_otel_spans_sent_total", "counter", exporter.sent, help_)
        help_ = "Spans that are lost, by the reason."
        for reason, count in (REASONS | exporter.dropped).items():
            name = "gateway_otel_spans_dropped_total"
            yield Sample(name, "counter", count, help_, {"reason": reason})
        help_ = "Finished calls whose spans wait to be sent."
        yield Sample("gateway_otel_calls_waiting", "gauge", exporter.waiting, help_)
        help_ = "1 while the collector does not take spans."
        away = Sample("gateway_otel_collector_away", "gauge", exporter.away, help_, merge="max")
        yield away


REASONS = dict.fromkeys(("queue_full", "unreachable", "refused", "failed", "shutdown"), 0)
"""Why spans are lost; each is reported from the beginning."""


def _require(name: str, extras: str) -> None:
    """Raises ConfigError if a package is missing. It is not imported: see `lifespan`."""
    try:
        found = find_spec(name)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise ConfigError(f"there is no package {name}; install llm-call-gateway[{extras}]")
