"""What is written as bytes is what the library of opentelemetry-proto reads."""

from gateway_plugins.otel.exporting.exporter import SPAN
from gateway_plugins.otel.parameters import Value
from gateway_plugins.otel.spans.conventions import GenAi
from gateway_plugins.otel.spans.encoding import (
    IN_EVENT,
    attribute,
    counted,
    event,
    event_named,
    field,
    measured,
    varint,
    varying,
)
from gateway_plugins.otel.spans.spans import spans_of
from google.protobuf.internal.encoder import _VarintBytes
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans, Span, Status
from support.otel.finished import finished_call

TEXTS = st.text(st.characters(exclude_categories=()), max_size=400)
NUMBERS = st.integers(-(1 << 63), (1 << 63) - 1)
DOUBLES = st.floats(allow_nan=False)


def span_of(*parts: bytes) -> Span:
    found: Span = Span.FromString(b"".join(parts))
    return found


def text_of(value: str) -> AnyValue:
    """As UTF-8 can have it: lone surrogates are replaced."""
    return AnyValue(string_value=value.encode(errors="replace").decode())


@given(st.integers(0, (1 << 64) - 1))
def test_varint_is_that_of_the_library(number: int) -> None:
    assert varint(number) == _VarintBytes(number)


@given(TEXTS, TEXTS, NUMBERS, DOUBLES, st.booleans(), st.lists(TEXTS, max_size=3))
def test_attributes_of_all_types_are_read(
    name: str, text: str, number: int, double: float, flag: bool, texts: list[str]
) -> None:
    values: list[Value] = [text, number, double, flag, tuple(texts)]
    found = span_of(*[attribute(name, value) for value in values])
    key = text_of(name).string_value
    several = ArrayValue(values=[text_of(one) for one in texts])
    assert list(found.attributes) == [
        KeyValue(key=key, value=text_of(text)),
        KeyValue(key=key, value=AnyValue(int_value=number)),
        KeyValue(key=key, value=AnyValue(double_value=double)),
        KeyValue(key=key, value=AnyValue(bool_value=flag)),
        KeyValue(key=key, value=AnyValue(array_value=several)),
    ]


@given(TEXTS, TEXTS, NUMBERS, DOUBLES)
def test_shortcuts_write_the_same_attributes(
    name: str, text: str, number: int, double: float
) -> None:
    assert varying(name, text) == attribute(name, text)
    assert counted(name, number) == attribute(name, number)
    assert measured(name, double) == attribute(name, double)


@given(st.integers(0, (1 << 64) - 1), TEXTS, TEXTS, TEXTS)
def test_events_are_read(time: int, name: str, key: str, value: str) -> None:
    found = span_of(event(time, event_named(name, (key, value))), event(time, event_named("x")))
    first, second = found.events
    assert (first.time_unix_nano, first.name) == (time, text_of(name).string_value)
    assert first.attributes[0].value == text_of(value)
    assert (second.time_unix_nano, second.name, len(second.attributes)) == (time, "x", 0)
    assert attribute(key, value, IN_EVENT) in event_named(name, (key, value))


def test_spans_have_no_field_that_the_library_does_not_know() -> None:
    spans = spans_of(finished_call(), GenAi())
    scope = ScopeSpans.FromString(b"".join([field(SPAN, one) for one in spans]))
    call, attempt = scope.spans
    assert (call.kind, attempt.kind) == (Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT)
    assert (call.name, attempt.name) == ("chat m", "POST /v1/chat/completions")
    assert (attempt.parent_span_id, call.parent_span_id) == (call.span_id, b"")
    assert (call.flags, attempt.flags) == (0x101, 0x101)
    assert call.status == Status()
    for span, data in zip((call, attempt), spans, strict=True):
        assert len(span.SerializeToString()) == len(data), "nothing is unknown or written twice"
        span.DiscardUnknownFields()
        assert len(span.SerializeToString()) == len(data)
