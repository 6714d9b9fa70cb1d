"""The configuration as frozen Structs, independent of the file that it was read from.

An embedded gateway can build them in code.
"""

import ipaddress
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta
from msgspec.structs import force_setattr, replace

from gateway.config.conversion import convert
from gateway.config.hints import Note
from gateway.config.messages import dotted
from gateway.config.node import Node
from gateway.config.sizes import SCHEMA, size
from gateway.config.worker import Text, Worker, distinct

T = TypeVar("T", bound=msgspec.Struct)

MIB = 1024 * 1024

Seconds = Annotated[float, Meta(gt=0), Note(unit="seconds")]
Bytes = Annotated[
    int,
    Meta(gt=0, extra_json_schema={"anyOf": SCHEMA}),
    Note(expected='a size greater than 0, in bytes or such as "20 MiB"', read=size),
]
Status = Annotated[int, Meta(ge=400, le=599), Note(expected="a status from 400 to 599")]
ProbePath = Annotated[
    str, Meta(pattern=r'^/[!"$-z|~]*(?![\s\S])'), Note(expected='a path like "/health"')
]
ExtraPath = Annotated[
    str, Meta(pattern=r"^/[^?#{}\s]*(?![\s\S])"), Note(expected='a path like "/version"')
]


class Timeouts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Timeout of each phase, in seconds; null: no limit."""

    connect: Annotated[
        Seconds | None, Meta(description="To open a connection to a worker, TLS included.")
    ] = 5.0
    first_byte: Annotated[
        Seconds | None, Meta(description="From the call sent whole to the first of the answer.")
    ] = 600.0
    idle: Annotated[
        Seconds | None, Meta(description="Between two pieces of an answer, or of a call's body.")
    ] = 600.0
    total: Annotated[Seconds | None, Meta(description="For a call as a whole.")] = None
    keepalive: Annotated[
        Seconds, Meta(description="How long a connection that no call uses is kept.")
    ] = 60.0
    drain: Annotated[
        Seconds | None, Meta(description="How long calls in flight may go on at shutdown.")
    ] = 30.0


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Sizes and counts above which the gateway rejects calls and responses."""

    max_calls: Annotated[
        int, Meta(gt=0, description="Calls in flight at a time, over all workers.")
    ] = 10_000
    max_body_bytes: Annotated[
        Bytes, Meta(description="The body of a call, and of an answer that a plugin reads whole.")
    ] = 64 * MIB
    max_header_bytes: Annotated[
        Bytes, Meta(description="The header of a call, and that of an answer.")
    ] = 64 * 1024
    max_headers: Annotated[
        int, Meta(gt=0, description="The number of header lines of an answer.")
    ] = 256
    max_event_bytes: Annotated[Bytes, Meta(description="One server-sent event of an answer.")] = (
        16 * MIB
    )


class Failover(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When the gateway retries a failed call on another worker."""

    workers: Annotated[
        int, Meta(gt=0, description="Workers that are asked for one call at most; 1: no failover.")
    ] = 3
    statuses: Annotated[
        tuple[Status, ...],
        Meta(description="Answers after which another worker is asked; 429 only the first time."),
    ] = (502, 503, 504, 429)
    rerun: Annotated[
        bool,
        Meta(description="Whether a generation that a worker may have run is run once more."),
    ] = False
    budget: Annotated[
        float,
        Meta(ge=0, le=1, description="Share of the calls that may be sent to a worker once more."),
    ] = 0.2
    backoff: Annotated[
        Seconds, Meta(description="The wait before a second worker, on average; then doubled.")
    ] = 0.05
    deadline: Annotated[
        Seconds | None, Meta(description="Age of a call after which no other worker is asked.")
    ] = 60.0


class Probes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the gateway checks the health of workers and the models they serve."""

    interval: Annotated[
        Seconds | None, Meta(description="Between two probes of a worker; null: none are made.")
    ] = 5.0
    jitter: Annotated[
        float,
        Meta(ge=0, le=1, description="Share of the interval by which it varies, up and down."),
    ] = 0.1
    path: Annotated[ProbePath, Meta(description="What is asked; any status below 500 is well.")] = (
        "/health"
    )
    timeout: Annotated[Seconds, Meta(description="For one probe, connecting included.")] = 3.0
    fall: Annotated[
        int, Meta(gt=0, description="Failures in a row after which a worker is down.")
    ] = 3
    rise: Annotated[
        int, Meta(gt=0, description="Successes in a row after which it is up again.")
    ] = 2
    models: Annotated[
        Seconds | None,
        Meta(description="How often /v1/models is asked where `models` is not given; null: never."),
    ] = 60.0


class StorageSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How plugins' records of calls are stored in the embedded database."""

    durability: Annotated[
        Literal["process", "power", "none"],
        Meta(description="What an answered call's trace outlives: the process, a power cut, none."),
        Note(ignore_case=True),
    ] = "process"
    commit_timeout: Annotated[
        Seconds, Meta(description="How long an answer's last byte waits for its commit.")
    ] = 5.0
    backlog_bytes: Annotated[
        Bytes, Meta(description="What may wait in memory while the file cannot be written.")
    ] = 256 * MIB


class PluginEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A plugin to run: `name`, or `name: {options}`.

    `source` is the place of the entry, as messages begin: `gateway.yaml:12`. `written` is `options`
    with the place of each, None if the entry was built in code. A file in `name` is relative to the
    folder `base`: that of the configuration file, or the working directory if empty.
    """

    name: Text
    options: Annotated[dict[str, object], Note(secret=True)] = {}
    source: str = ""
    written: Node | None = None
    base: str = ""

    def __repr__(self) -> str:
        # The options may hold keys, and a repr ends up in logs.
        return f"PluginEntry({self.name!r})"

    @classmethod
    def shorthand(cls, node: Node) -> Node:
        match node.value:
            case str():
                name, options = node, replace(node, value={})
            case dict() if len(node.value) == 1:
                [(key, options)] = node.value.items()
                name = Node(key, options.place)
                options = replace(options, value={}) if options.value is None else options
            case _:
                raise ValueError("expected a plugin's name, or its name over its indented options")
        source = Node(name.place, name.place)
        full = {"name": name, "options": options, "source": source, "written": options}
        return Node(full, name.place)

    def options_as(self, type_: type[T], problems: list[str]) -> T | None:
        """Convert the options to the plugin's own Struct; None if they have mistakes.

        Adds a line to `problems` for each mistake.
        """
        written = self.written or Node.of(self.options, self.source)
        secret = replace(written, secret=True)
        field = dotted("plugins", self.name)
        return convert(secret, type_, problems=problems, field=field, noun="option")


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All settings of a gateway."""

    host: Annotated[Text, Meta(description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[
        int,
        Meta(ge=0, le=65535, description="Port to listen on; 0: any that is free."),
        Note(expected="a port from 0 to 65535"),
    ] = 9090
    processes: Annotated[
        int,
        Meta(ge=1, le=128, description="Processes that `gateway serve` runs on the port."),
        Note(expected="a number of processes from 1 to 128"),
    ] = 1
    workers: Annotated[
        tuple[Worker, ...],
        Meta(description="The inference servers: URLs, or mappings."),
        Note(check=distinct),
    ] = ()
    plugins: Annotated[
        tuple[PluginEntry, ...], Meta(description="What is enabled, in running order.")
    ] = ()
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    failover: Failover = Failover()
    probes: Probes = Probes()
    persist_workers: Annotated[
        bool,
        Meta(description="Whether what the admin interface changes of workers outlives a restart."),
    ] = False
    db_path: Annotated[
        Text, Meta(description='File of the embedded database; ":memory:": gone at the end.')
    ] = "gateway.db"
    store: Annotated[
        Literal["sqlite", "memory"],
        Meta(description='Where the database is; "memory": as with the db_path ":memory:".'),
        Note(ignore_case=True),
    ] = "sqlite"
    storage: StorageSettings = StorageSettings()
    model: Annotated[
        Text | None, Meta(description="Sent in place of the model that callers name.")
    ] = None
    allow_anonymous: Annotated[
        bool,
        Meta(
            description="Whether to listen beyond this machine with no plugin that authenticates."
        ),
    ] = False
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="The least grave that is logged."),
        Note(ignore_case=True),
    ] = "info"
    log_format: Annotated[
        Literal["auto", "text", "json"],
        Meta(description="How it is written; auto: text for a terminal, JSON lines for all else."),
        Note(ignore_case=True),
    ] = "auto"
    extra_paths: Annotated[
        tuple[ExtraPath, ...],
        Meta(description="Paths outside /v1 that are carried to a worker, each exactly as it is."),
    ] = ("/tokenize", "/detokenize", "/version", "/inference/v1/generate")

    def __post_init__(self) -> None:
        force_setattr(self, "workers", distinct(self.workers))


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to `host`; does not look up names."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
