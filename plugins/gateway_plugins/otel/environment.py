"""What the variables of OpenTelemetry say, where the options are silent.

The names and forms are those of the specification ("OTLP Exporter Configuration", "Resource SDK").
A variable of traces (OTEL_EXPORTER_OTLP_TRACES_...) comes before the one of all signals.
"""

from collections.abc import Mapping
from typing import NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

from gateway import ConfigError
from gateway_plugins.otel.options import MAX_TIMEOUT, Compression, Options, Protocol

HTTP_URL, GRPC_URL = "http://localhost:4318", "http://localhost:4317"
TRACES = "/v1/traces"

TIMEOUT = 10.0
"""Seconds for one request where nothing says otherwise: as in the specification."""

PROTOCOLS: Mapping[str, Protocol] = {"http/protobuf": "http", "grpc": "grpc"}
COMPRESSIONS: Mapping[str, Compression] = {"none": "none", "gzip": "gzip"}

OPT_IN = "OTEL_SEMCONV_STABILITY_OPT_IN"
LATEST = "gen_ai_latest_experimental"

Environ = Mapping[str, str]

Chosen = TypeVar("Chosen", Protocol, Compression)


class Target(NamedTuple):
    """Where spans go and how. The files are in PEM, None if there is none.

    `headers` have names in lower case; they may hold secrets, so nothing shows them. `timeout` is
    the seconds for one request.
    """

    url: str
    protocol: Protocol
    headers: Mapping[str, str]
    compression: Compression
    timeout: float
    certificate: str | None
    client_certificate: str | None
    client_key: str | None

    @property
    def shown(self) -> str:
        """The URL without a user, a password or a query."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def target_of(options: Options, environ: Environ) -> Target:
    """Return where spans go. Raises ConfigError if a variable or the endpoint is no such value."""
    protocol = options.protocol or _one_of(environ, "PROTOCOL", PROTOCOLS, "http")
    headers = {**_headers(environ), **options.headers}
    return Target(
        _url(options, environ, protocol),
        protocol,
        {name.lower(): value for name, value in headers.items()},
        options.compression or _one_of(environ, "COMPRESSION", COMPRESSIONS, "none"),
        options.timeout or _timeout(environ),
        _variable(environ, "CERTIFICATE"),
        _variable(environ, "CLIENT_CERTIFICATE"),
        _variable(environ, "CLIENT_KEY"),
    )


def resource_of(options: Options, environ: Environ) -> dict[str, str]:
    """Return what the operator says of this gateway; `service.name` is always there."""
    told = _pairs("OTEL_RESOURCE_ATTRIBUTES", environ)
    name = options.service_name or environ.get("OTEL_SERVICE_NAME")
    named = {"service.name": name} if name else {}
    return {"service.name": "gateway", **told, **options.resource, **named}


def is_former(environ: Environ) -> bool:
    """Whether the conventions before their own repository (v1.36.0) are asked for.

    The variable asks for them if it names generations and not the latest one of generative AI.
    """
    named = [one.strip() for one in environ.get(OPT_IN, "").split(",")]
    return any(named) and LATEST not in named


def _variable(environ: Environ, name: str) -> str | None:
    for prefix in ("OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_"):
        if value := environ.get(prefix + name, "").strip():
            return value
    return None


def _one_of(environ: Environ, name: str, values: Mapping[str, Chosen], default: Chosen) -> Chosen:
    told = _variable(environ, name)
    if told is None:
        return default
    if told not in values:
        allowed = ", ".join(values)
        raise ConfigError(f"OTEL_EXPORTER_OTLP_{name}: expected one of {allowed}, got {told!r}")
    return values[told]


def _timeout(environ: Environ) -> float:
    """Return the seconds for one request: the variable has milliseconds, 0 means no limit."""
    told = _variable(environ, "TIMEOUT")
    if told is None:
        return TIMEOUT
    if not (told.isascii() and told.isdecimal() and len(told) < 10):
        form = "a whole number of milliseconds"
        raise ConfigError(f"OTEL_EXPORTER_OTLP_TIMEOUT: expected {form}, got {told[:40]!r}")
    return min(int(told) / 1000 or MAX_TIMEOUT, MAX_TIMEOUT)


def _url(options: Options, environ: Environ, protocol: Protocol) -> str:
    if options.endpoint is not None:
        return _with_path(_checked("endpoint", options.endpoint, protocol), protocol)
    own = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
    if url := environ.get(own, "").strip():
        return _checked(own, url, protocol)
    common = "OTEL_EXPORTER_OTLP_ENDPOINT"
    if url := environ.get(common, "").strip():
        url = _checked(common, url, protocol)
        return url if protocol == "grpc" else url.rstrip("/") + TRACES
    return GRPC_URL if protocol == "grpc" else HTTP_URL + TRACES


def _checked(name: str, url: str, protocol: Protocol) -> str:
    """Return a URL. Raises ConfigError. gRPC may also have `host:port`, which is without TLS."""
    if "://" not in url and protocol == "grpc":
        url = f"http://{url}"
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise ConfigError(f"{name}: expected a URL such as {HTTP_URL}")
    return url


def _with_path(url: str, protocol: Protocol) -> str:
    """Return a URL of HTTP with the path of traces, if it has none."""
    parts = urlsplit(url)
    bare = protocol == "http" and parts.path in ("", "/") and not parts.query
    return url.rstrip("/") + TRACES if bare else url


def _headers(environ: Environ) -> dict[str, str]:
    own = "OTEL_EXPORTER_OTLP_TRACES_HEADERS"
    return _pairs(own if environ.get(own) else "OTEL_EXPORTER_OTLP_HEADERS", environ)


def _pairs(name: str, environ: Environ) -> dict[str, str]:
    """Read `a=1,b=2`, each value percent-encoded. Raises ConfigError, without the value."""
    found = {}
    for part in environ.get(name, "").split(","):
        if not part.strip():
            continue
        key, equals, value = part.partition("=")
        if not (key.strip() and equals):
            raise ConfigError(f"{name}: expected a list such as name=value,name=value")
        found[unquote(key.strip())] = unquote(value.strip())
    return found
