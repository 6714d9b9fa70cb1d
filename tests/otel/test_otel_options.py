"""Where spans go: the options, the variables of OpenTelemetry, and the mistakes in both."""

import re

import msgspec
import pytest
from gateway_plugins.otel import Otel
from gateway_plugins.otel.environment import is_former, resource_of, target_of
from gateway_plugins.otel.options import Options
from hypothesis import given
from hypothesis import strategies as st
from support.paths import CONFIGS, DOCS

from gateway import ConfigError
from gateway.config import load
from gateway.telemetry.trace_context import bound_of

BASE = "OTEL_EXPORTER_OTLP_"


@pytest.mark.parametrize(
    ("options", "environ", "url"),
    [
        ({}, {}, "http://localhost:4318/v1/traces"),
        ({"protocol": "grpc"}, {}, "http://localhost:4317"),
        ({"endpoint": "http://a:1"}, {}, "http://a:1/v1/traces"),
        ({"endpoint": "http://a:1/"}, {}, "http://a:1/v1/traces"),
        ({"endpoint": "https://a/x?key=1"}, {}, "https://a/x?key=1"),
        ({"endpoint": "a:1", "protocol": "grpc"}, {}, "http://a:1"),
        ({}, {"ENDPOINT": "http://b:1/x"}, "http://b:1/x/v1/traces"),
        ({}, {"TRACES_ENDPOINT": "http://b:1/x", "ENDPOINT": "http://c"}, "http://b:1/x"),
        ({}, {"ENDPOINT": "http://b:1", "PROTOCOL": "grpc"}, "http://b:1"),
        ({"endpoint": "http://a:1"}, {"ENDPOINT": "http://b:1"}, "http://a:1/v1/traces"),
    ],
)
def test_endpoint_is_that_of_the_options_or_of_the_variables(
    options: dict[str, str], environ: dict[str, str], url: str
) -> None:
    given = msgspec.convert(options, Options)
    assert target_of(given, {BASE + name: value for name, value in environ.items()}).url == url


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ENDPOINT", "localhost:4318"),
        ("ENDPOINT", "http://[::1"),
        ("PROTOCOL", "http/json"),
        ("COMPRESSION", "zstd"),
        ("HEADERS", "sesame"),
        ("TIMEOUT", "10s"),
        ("TIMEOUT", "-1"),
        ("TIMEOUT", "1.5"),
        ("TIMEOUT", "9" * 5_000),
    ],
)
def test_mistakes_in_variables_are_named_without_their_secrets(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=BASE + name) as told:
        target_of(Options(), {BASE + name: value})
    assert "sesame" not in str(told.value)


@pytest.mark.parametrize(
    ("timeout", "environ", "seconds"),
    [
        (None, {}, 10.0),
        (None, {"TIMEOUT": "2500"}, 2.5),
        (None, {"TIMEOUT": "2500", "TRACES_TIMEOUT": "1"}, 0.001),
        (None, {"TIMEOUT": "0"}, 300.0),
        (None, {"TIMEOUT": "999999999"}, 300.0),
        (4.0, {"TIMEOUT": "2500"}, 4.0),
    ],
)
def test_timeout_is_that_of_the_options_or_milliseconds_of_the_variables(
    timeout: float | None, environ: dict[str, str], seconds: float
) -> None:
    named = {BASE + name: value for name, value in environ.items()}
    assert target_of(Options(timeout=timeout), named).timeout == seconds


def test_shown_url_has_no_secret() -> None:
    target = target_of(Options(endpoint="https://user:sesame@a:1/x?key=sesame"), {})
    assert target.shown == "https://a:1/x"


def test_headers_of_the_options_come_before_those_of_the_variables() -> None:
    environ = {BASE + "HEADERS": "x-a=1, X-B=a%3Db ", BASE + "TRACES_HEADERS": ""}
    headers = target_of(Options(headers={"X-A": "2"}), environ).headers
    assert headers == {"x-a": "2", "x-b": "a=b"}


def test_resource_is_that_of_the_options_and_the_variables() -> None:
    environ = {"OTEL_RESOURCE_ATTRIBUTES": "service.name=a,b=c"}
    assert resource_of(Options(), environ) == {"service.name": "a", "b": "c"}
    assert resource_of(Options(), {}) == {"service.name": "gateway"}
    told = Options(service_name="mine", resource={"b": "d"})
    assert resource_of(told, environ) == {"service.name": "mine", "b": "d"}


@pytest.mark.parametrize(
    ("told", "former"),
    [("", False), ("gen_ai_latest_experimental", False), ("http", True), (" , ", False)],
)
def test_generation_is_chosen_by_the_variable(told: str, former: bool) -> None:
    assert is_former({"OTEL_SEMCONV_STABILITY_OPT_IN": told}) is former


@given(st.integers(0, (1 << 64) - 1), st.floats(0, 1))
def test_ratio_decides_as_the_sampler_of_opentelemetry(low: int, ratio: float) -> None:
    """Its rule: `trace_id & (2**64 - 1) < ratio * 2**64`."""
    assert (f"{low:016x}" < bound_of(ratio)) is (low < int(ratio * (1 << 64)))


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway_plugins.otel.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"llm-call-gateway\[otel\]"):
        Otel(Options())


def test_manual_lists_each_option_with_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(.*?)` \|", (DOCS / "observe.md").read_text(), re.MULTILINE)
    assert rows == [
        (field.name, msgspec.json.encode(getattr(Options(), field.name)).decode())
        for field in msgspec.structs.fields(Options)
    ]


def test_example_configuration_is_valid() -> None:
    settings = load(CONFIGS / "observe.yaml", {})
    [otel] = [one for one in settings.plugins if one.name == "otel"]
    problems: list[str] = []
    assert otel.options_as(Options, problems) is not None
    assert problems == []
