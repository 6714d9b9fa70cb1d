"""The configuration as frozen Structs, independent of the file that it was read from.

An embedded gateway can build them in code.
"""

import ipaddress
from typing import Annotated, ClassVar, Literal, Self, TypeVar

import msgspec
from msgspec import Meta
from msgspec.structs import force_setattr, replace

from gateway.config.conversion import convert
from gateway.config.hints import Note
from gateway.config.messages import dotted
from gateway.config.node import Node
from gateway.config.probe import ProbePath, Text
from gateway.config.renames import Former, Renames, with_new_names
from gateway.config.sizes import SCHEMA, size
from gateway.config.worker import Status, Worker, distinct

T = TypeVar("T", bound=msgspec.Struct)

MIB = 1024 * 1024

MEMORY = ":memory:"
"""Path of a database that is deleted at the end."""

Seconds = Annotated[float, Meta(gt=0), Note(unit="seconds")]
Bytes = Annotated[
    int,
    Meta(gt=0, extra_json_schema={"anyOf": SCHEMA}),
    Note(expected='a size greater than 0, in bytes or such as "20 MiB"', read=size),
]
ServerTiming = Literal["none", "header", "comment"]
"""What callers are told of times: nothing, the header, or also a comment at a stream's end."""

ExtraPath = Annotated[
    str, Meta(pattern=r"^/[^?#{}\s]*(?![\s\S])"), Note(expected='a path like "/version"')
]

Origin = Annotated[
    str,
    Meta(pattern=r"^(\*|[A-Za-z][A-Za-z0-9+.-]*://[^/\s*?#@]+)(?![\s\S])"),
    Note(expected='an origin like "https://chat.example", or "*"'),
]


class Timeouts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Timeout of each phase, in seconds; null: no limit."""

    connect: Annotated[
        Seconds | None, Meta(description="Time to open a connection to a worker, including TLS.")
    ] = 5.0
    first_byte: Annotated[
        Seconds | None,
        Meta(description="From the end of the request to the first byte of the response."),
    ] = 600.0
    idle: Annotated[
        Seconds | None, Meta(description="Between two chunks of a response, or of a request body.")
    ] = 600.0
    header: Annotated[
        Seconds, Meta(description="From the first byte of a request's header to its end.")
    ] = 10.0
    total: Annotated[
        Seconds | None, Meta(description="Duration of a call, including all its attempts.")
    ] = None
    keepalive: Annotated[Seconds, Meta(description="Time before an idle connection is closed.")] = (
        60.0
    )
    drain: Annotated[
        Seconds | None, Meta(description="Time that calls in flight have to finish at shutdown.")
    ] = 30.0


class ServerLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Sizes and counts above which the gateway rejects calls and responses."""

    max_calls: Annotated[int, Meta(gt=0, description="Calls in flight, over all workers.")] = 10_000
    max_body_bytes: Annotated[
        Bytes,
        Meta(description="Size of a request body, and of a response that a plugin reads whole."),
    ] = 64 * MIB
    max_header_bytes: Annotated[
        Bytes, Meta(description="Size of the header of a request, and of a response.")
    ] = 64 * 1024
    max_headers: Annotated[int, Meta(gt=0, description="Number of header lines of a response.")] = (
        256
    )
    max_event_bytes: Annotated[
        Bytes, Meta(description="Size of one server-sent event of a response.")
    ] = 16 * MIB


class Failover(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When the gateway retries a failed call on another worker."""

    renamed_until: ClassVar[Renames] = {"0.2": {"workers": "max_workers"}}

    max_workers: Annotated[
        int, Meta(gt=0, description="Maximum number of workers for one call; 1 disables failover.")
    ] = 3
    statuses: Annotated[
        tuple[Status, ...],
        Meta(description="Response statuses to retry, if nothing can have run; a 429 only once."),
    ] = (502, 503, 504, 429)
    rerun: Annotated[
        bool,
        Meta(description="Whether to repeat a generation that a worker may have run."),
    ] = False
    budget: Annotated[
        float,
        Meta(ge=0, le=1, description="Share of the calls that may be retried."),
    ] = 0.2
    backoff: Annotated[
        Seconds, Meta(description="Average wait before the second worker; doubles for each one.")
    ] = 0.05
    deadline: Annotated[
        Seconds | None, Meta(description="Age of a call after which no other worker is tried.")
    ] = 60.0


class Probes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the gateway checks the health of workers and the models they serve."""

    renamed_until: ClassVar[Renames] = {"0.2": {"models": "models_interval"}}

    interval: Annotated[
        Seconds | None, Meta(description="Between two probes of a worker; null disables probes.")
    ] = 5.0
    jitter: Annotated[
        float,
        Meta(ge=0, le=1, description="Share of the interval by which it varies."),
    ] = 0.1
    path: Annotated[
        ProbePath, Meta(description="Path to request; any status below 500 is a success.")
    ] = "/health"
    timeout: Annotated[Seconds, Meta(description="For one probe, including the connection.")] = 3.0
    fall: Annotated[
        int, Meta(gt=0, description="Consecutive failures after which a worker is judged.")
    ] = 3
    rise: Annotated[
        int, Meta(gt=0, description="Consecutive successes after which it is up again.")
    ] = 2
    models_interval: Annotated[
        Seconds | None,
        Meta(description="Between two requests for a worker's models; null: never."),
    ] = 60.0


class Cors(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Web pages of other sites that may make calls from a browser."""

    origins: Annotated[
        tuple[Origin, ...],
        Meta(description='Origins whose pages may make calls; "*": any. None: workers decide.'),
    ] = ()
    max_age: Annotated[
        Seconds, Meta(description="Time that a browser may keep the answer to a preflight.")
    ] = 600.0


class StorageSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How plugins' records of calls are stored in the embedded database."""

    path: Annotated[
        Text,
        Meta(description='File of the database; ":memory:": a temporary file, deleted at the end.'),
    ] = "gateway.db"
    persist_workers: Annotated[
        bool, Meta(description="Whether changes of workers by the admin API survive a restart.")
    ] = False

    durability: Annotated[
        Literal["process", "power", "none"],
        Meta(description="What stored traces survive: a killed process, a power failure, none."),
        Note(ignore_case=True),
    ] = "process"
    commit_timeout: Annotated[
        Seconds, Meta(description="Time that the last byte of a response waits for its commit.")
    ] = 5.0
    backlog_bytes: Annotated[
        Bytes, Meta(description="Size of records in memory while the file cannot be written.")
    ] = 256 * MIB

    @property
    def in_memory(self) -> bool:
        return self.path == MEMORY


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

    def options_as(
        self, type_: type[T], problems: list[str], warnings: list[str] | None = None
    ) -> T | None:
        """Convert the options to the plugin's own Struct; None if they have mistakes.

        Adds a line to `problems` for each mistake, and one to `warnings` for each former name.
        """
        field, found = dotted("plugins", self.name), [] if warnings is None else warnings
        written = replace(self.written or Node.of(self.options, self.source), secret=True)
        present = with_new_names(written, type_, problems, found, field)
        return convert(present, type_, problems=problems, field=field, noun="option")


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All settings of a gateway. `warnings` has a line for each former name that was used."""

    renamed_until: ClassVar[Renames] = {
        "0.2": {
            "limits": "server_limits",
            "db_path": "storage.path",
            "persist_workers": "storage.persist_workers",
            "store": Former(now="storage.path", values={"memory": MEMORY, "sqlite": None}),
        }
    }

    host: Annotated[Text, Meta(description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[
        int,
        Meta(ge=0, le=65535, description="Port to listen on; 0 selects a free port."),
        Note(expected="a port from 0 to 65535"),
    ] = 9090
    processes: Annotated[
        int,
        Meta(ge=1, le=128, description="Number of processes that serve the port."),
        Note(expected="a number of processes from 1 to 128"),
    ] = 1
    workers: Annotated[
        tuple[Worker, ...],
        Meta(description="Inference servers: URLs, or mappings."),
        Note(check=distinct),
    ] = ()
    plugins: Annotated[
        tuple[PluginEntry, ...], Meta(description="Plugins to run, in this order.")
    ] = ()
    timeouts: Timeouts = Timeouts()
    server_limits: ServerLimits = ServerLimits()
    failover: Failover = Failover()
    probes: Probes = Probes()
    cors: Cors = Cors()
    storage: StorageSettings = StorageSettings()
    stream_errors: Annotated[
        Literal["break", "event"],
        Meta(description="How a stream ends that fails midway: broken off, or after an event."),
        Note(ignore_case=True),
    ] = "break"
    server_timing: Annotated[
        ServerTiming,
        Meta(description="What tells callers of times: a header, also a comment, or nothing."),
        Note(ignore_case=True),
    ] = "header"
    model: Annotated[
        Text | None, Meta(description="Model to send to workers instead of the caller's.")
    ] = None
    allow_anonymous: Annotated[
        bool,
        Meta(description="Whether other machines may connect if no plugin authenticates callers."),
    ] = False
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="Minimum level to log."),
        Note(ignore_case=True),
    ] = "info"
    log_format: Annotated[
        Literal["auto", "text", "json"],
        Meta(description="Format of the log; auto: text on a terminal, else JSON lines."),
        Note(ignore_case=True),
    ] = "auto"
    extra_paths: Annotated[
        tuple[ExtraPath, ...],
        Meta(
            description="Paths outside /v1 that are forwarded to workers, without those below them."
        ),
    ] = (
        "/tokenize",
        "/detokenize",
        "/tokenizer_info",
        "/version",
        "/inference/v1/generate",
    )
    warnings: Annotated[tuple[str, ...], Note(internal=True)] = ()

    def __post_init__(self) -> None:
        force_setattr(self, "workers", distinct(self.workers))

    def with_database(self, path: str | None) -> Self:
        """Return the configuration with another file of the database; None: with the same."""
        if path is None:
            return self
        return replace(self, storage=replace(self.storage, path=path))


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to `host`; does not look up names."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
