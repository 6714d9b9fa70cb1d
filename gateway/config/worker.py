"""The configuration of one worker: its URL, and the headers and options of every call to it."""

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, count
from typing import Annotated, Literal
from urllib.parse import SplitResult, urlsplit

import msgspec
from msgspec import Meta
from msgspec.structs import force_setattr, replace

from gateway.config.conversion import FieldError
from gateway.config.hints import Note
from gateway.config.node import Node
from gateway.config.probe import PROBE, Preset, Text, WorkerProbe

_HOST = re.compile(r"[a-z0-9._-]+")
DEFAULT_PORTS = {"http": 80, "https": 443}
_URL = 'a URL such as "http://host:8000/v1"'

# The gateway writes these headers itself, or they concern a single connection.
RESERVED_HEADERS = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-request-id",
    }
)


def split_url(url: str) -> tuple[str, str]:
    """Split a URL: `http://h:8000/v1/` becomes `("http://h:8000", "/v1")`; the path may be empty.

    Raises ValueError with the expected form. The message never repeats the URL, which may hold a
    password.
    """
    parts = _parts(url)
    if "@" in parts.netloc:
        raise ValueError(f"expected {_URL} without credentials (they belong in headers)")
    if "?" in url or "#" in url:
        raise ValueError(f"expected {_URL} without a query or a fragment")
    return f"{parts.scheme}://{parts.netloc.lower().removesuffix(':')}", parts.path.rstrip("/")


def _parts(url: str) -> SplitResult:
    try:
        # urlsplit drops line breaks and tabs silently.
        parts = urlsplit(url if re.fullmatch(r"[!-~]+", url) else "")
        port, host = parts.port, parts.hostname or ""
        known = parts.scheme in DEFAULT_PORTS and port != 0
        if known and (ipaddress.IPv6Address(host) if ":" in host else _HOST.fullmatch(host)):
            return parts
    except ValueError:
        pass
    raise ValueError(f"expected {_URL}, http or https")


# The end of the text: `$` would also match before a final line break.
_END = r"(?![\s\S])"

Url = Annotated[
    str,
    Meta(extra_json_schema={"pattern": "^https?://"}),
    Note(expected=_URL, check=split_url),
]
ApiPath = Annotated[
    str, Meta(pattern=rf"^/[^/?#\s][^?#\s]*{_END}"), Note(expected='a path such as "/v1"')
]
HeaderName = Annotated[
    str,
    Meta(pattern=rf"^[!#$%&'*+.^_`|~0-9A-Za-z-]+{_END}"),
    Note(expected="the name of an HTTP header"),
]
HeaderValue = Annotated[
    str,
    Meta(pattern=rf"^[\t\x20-\x7e\x80-\xff]*{_END}"),
    Note(expected="text that a header can hold, without CR, LF and NUL"),
]
WorkerId = Annotated[
    str, Meta(pattern=rf"^[ -~]+{_END}"), Note(expected="text of printable ASCII characters")
]


Status = Annotated[int, Meta(ge=400, le=599), Note(expected="a status from 400 to 599")]


class TLS(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the gateway verifies an https worker, and the certificate that the gateway presents."""

    ca_file: Annotated[
        Text | None, Meta(description="PEM file of the authorities to trust; null: the system's.")
    ] = None
    cert_file: Annotated[
        Text | None, Meta(description="PEM file of the certificate that the gateway presents.")
    ] = None
    key_file: Annotated[
        Text | None,
        Meta(description="PEM file of the certificate's key; null: it is in `cert_file`."),
    ] = None
    verify: Annotated[
        bool, Meta(description="Whether to verify the worker's certificate and name.")
    ] = True

    def __post_init__(self) -> None:
        if self.key_file and not self.cert_file:
            raise FieldError("a key without its certificate; name that in cert_file", "key_file")


WorkerApi = Literal["chat", "completions", "messages", "responses", "generate"]


class Worker(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An inference server. A URL is enough: `http://host:8000/v1`.

    Calls go to `url` + `api_path`. The constructor splits a `url` that has a path, fills in
    `api_path` and `worker_id`, and raises ValueError if the fields contradict each other or the
    gateway sets one of the `headers` itself.
    """

    url: Annotated[
        Url, Meta(description="Address, http:// or https://; a path in it is `api_path`.")
    ]
    api_path: Annotated[
        ApiPath, Meta(description="Path that replaces /v1; default: that of `url`, else /v1.")
    ] = ""
    worker_id: Annotated[
        WorkerId,
        Meta(description="Unique name in logs, traces and responses; default: host:port."),
    ] = ""
    model_name: Annotated[
        Text | None, Meta(description="Model that it serves; null: see `models`.")
    ] = None
    models: Annotated[
        tuple[Text, ...],
        Meta(description="All models that it serves; default: those of its /v1/models."),
    ] = ()
    weight: Annotated[
        float, Meta(gt=0, description="Share of the calls relative to other workers.")
    ] = 1.0
    headers: Annotated[
        dict[HeaderName, HeaderValue],
        Meta(description="Headers to send with every call, instead of the caller's."),
        Note(secret=True),
    ] = {}
    forward_authorization: Annotated[
        bool,
        Meta(description="Whether to forward callers' keys (Authorization, X-API-Key)."),
    ] = False
    apis: Annotated[
        tuple[WorkerApi, ...],
        Meta(description="APIs that it speaks, for the plugin translate; default: all."),
    ] = ()
    refuses_with: Annotated[
        tuple[Status, ...],
        Meta(description="Statuses by which it always says that it has not run the call."),
    ] = ()
    inject: Annotated[
        bool,
        Meta(description="Whether to request token ids, logprobs and usage for plugins."),
    ] = True
    probe: Annotated[
        bool | Preset | WorkerProbe,
        Meta(description="Whether and how to probe the worker; a name: that kind of server."),
        Note(expected=PROBE),
    ] = True
    tls: Annotated[
        TLS | None,
        Meta(description="TLS settings for https; null: verified by the system's authorities."),
    ] = None

    def __post_init__(self) -> None:
        url, path = split_url(self.url)
        api_path = self.api_path.rstrip("/")
        if path and api_path and path != api_path:
            raise FieldError("differs from the path of url; write one of the two", "api_path")
        if self.tls and url.startswith("http:"):
            raise FieldError("is of no use over http; write an https URL", "tls")
        _reject_reserved(self.headers)
        force_setattr(self, "url", url)
        force_setattr(self, "api_path", path or api_path or "/v1")
        force_setattr(self, "worker_id", self.worker_id or self.authority)

    def __repr__(self) -> str:
        # The headers may hold keys, and a repr ends up in logs.
        return f"Worker({self.worker_id!r} at {self.url + self.api_path!r})"

    @classmethod
    def shorthand(cls, node: Node) -> Node:
        match node.value:
            case str():
                return replace(node, value={"url": node})
            case dict():
                return node
            case _:
                raise ValueError(f"expected {_URL}, or a mapping with one")

    @property
    def engine(self) -> Literal["sglang"] | None:
        """Which engine it is, if its probe names one that is asked for token ids in its own way."""
        preset = self.probe.preset if isinstance(self.probe, WorkerProbe) else self.probe
        return preset if preset == "sglang" else None

    @property
    def host(self) -> str:
        """Name or address; an IPv6 address is without brackets."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        parts = urlsplit(self.url)
        return parts.port or DEFAULT_PORTS[parts.scheme]

    @property
    def authority(self) -> str:
        """`host:port`, always with the port: `[::1]:80`."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def distinct(workers: Iterable[Worker]) -> tuple[Worker, ...]:
    """Make the worker ids unique: a second worker at `host:port` becomes `host:port#2`, and so on.

    An id other than the worker's `host:port` was chosen by the user and stays. Raises FieldError if
    two workers have the same chosen id.
    """
    named = tuple(workers)
    taken: set[str] = set()
    for place, worker in enumerate(named):
        if worker.worker_id != worker.authority:
            if worker.worker_id in taken:
                raise FieldError("another worker has this id too", place, "worker_id")
            taken.add(worker.worker_id)
    free: dict[str, Iterator[str]] = {}
    return tuple(_renamed(worker, taken, free) for worker in named)


def _renamed(worker: Worker, taken: set[str], free: dict[str, Iterator[str]]) -> Worker:
    authority = worker.authority
    if worker.worker_id != authority:
        return worker
    name = next(free.setdefault(authority, _names(authority, taken)))
    return worker if name == authority else replace(worker, worker_id=name)


def _names(authority: str, taken: set[str]) -> Iterator[str]:
    numbered = (f"{authority}#{number}" for number in count(2))
    return (name for name in chain([authority], numbered) if name not in taken)


def _reject_reserved(headers: Mapping[str, str]) -> None:
    seen: set[str] = set()
    for name in headers:
        if name.lower() in RESERVED_HEADERS:
            raise FieldError("is the gateway's own to send; leave it out", "headers", name)
        if name.lower() in seen:
            raise FieldError("is there twice, in other letter case", "headers", name)
        seen.add(name.lower())
