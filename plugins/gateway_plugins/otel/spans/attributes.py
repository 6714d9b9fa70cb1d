"""Attributes as messages of OTLP.

Those with few values are made once and copied, in a third of the time.
"""

from functools import lru_cache

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue

from gateway_plugins.otel.record import Value

MAX_KNOWN = 4_096
"""Attributes that are kept to be copied; callers can make up a model's name, and little else."""


def attribute(name: str, value: Value) -> KeyValue:
    """Return an attribute whose value is likely to be another one each time."""
    return KeyValue(key=name, value=_any(value))


@lru_cache(MAX_KNOWN)
def text(name: str, value: str) -> KeyValue:
    """Return an attribute with one of few texts, to be copied."""
    return KeyValue(key=name, value=AnyValue(string_value=value))


@lru_cache(MAX_KNOWN)
def number(name: str, value: int) -> KeyValue:
    """Return an attribute with one of few numbers, to be copied."""
    return KeyValue(key=name, value=AnyValue(int_value=value))


@lru_cache(2)
def yes(name: str) -> KeyValue:
    return KeyValue(key=name, value=AnyValue(bool_value=True))


def _any(value: Value) -> AnyValue:
    if isinstance(value, str):
        return AnyValue(string_value=value)
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    return AnyValue(array_value=ArrayValue(values=[AnyValue(string_value=one) for one in value]))
