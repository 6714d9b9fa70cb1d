"""Options of the plugin: the models that can be loaded, the places for them, and the rules."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Seconds = Annotated[float, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(gt=0)]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Port = Annotated[int, Meta(ge=1, le=65_535)]


class Docker(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a container is run; its name is `gateway-` and the runtime's name.

    The engine's command is complete, so the image's entrypoint is not used; `entrypoint` comes
    before the command. `volumes` are `HOST:CONTAINER` or `HOST:CONTAINER:ro`. `network` "host": the
    engine is at the machine's own address; any other: its port is published on a loopback address.
    `gpus`: the container gets the runtime's devices. `host`: the address of the daemon; None:
    DOCKER_HOST of the environment, or the usual socket.
    """

    image: Name
    entrypoint: tuple[str, ...] | None = None
    volumes: tuple[str, ...] = ()
    network: str | None = None
    shm_size: str = "32g"
    ipc: str = "host"
    labels: dict[str, str] = {}
    gpus: bool = True
    host: str | None = None


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A model that an engine can load.

    `name` is what callers write. `path` is what the engine loads, a name at a hub or a folder;
    None: `name`. `engine` determines the command; `command` replaces it, and in its parts `{name}`,
    `{path}`, `{host}` and `{port}` are replaced. `arguments` follow the command: a list, or one
    text that is split as a shell does. `environment` is added to that of the engine. The engine
    runs as a process; `docker`: in a container. `sleep_level`: an engine that has to make room
    sleeps at this level of vLLM rather than ends, and stays up. `url`: the engine is not started
    but is up there already, and is woken and put to sleep; this needs `sleep_level`. `download`:
    who downloads the model from the hub if it is not on the disk; "auto": the gateway, if it has
    the hub's library and the engine has its usual command. `files`: patterns of the files that the
    gateway downloads; none: those that engines load. `pinned`: it never makes room on the disk.
    `ready_timeout`: seconds from the start to an engine that answers; `log_timeout`: seconds
    without a new line in its log after which a start has failed. `warmup`: seconds that the first
    answer may take. `load_time`: how many seconds a load takes, until some have been measured.
    """

    name: Name
    path: str | None = None
    engine: Literal["vllm", "sglang"] = "vllm"
    command: tuple[str, ...] | None = None
    arguments: tuple[str, ...] | str = ()
    environment: dict[str, str] = {}
    docker: Docker | None = None
    url: str | None = None
    sleep_level: Literal[1, 2] | None = None
    download: Literal["auto", "gateway", "engine"] = "auto"
    files: tuple[str, ...] = ()
    pinned: bool = False
    ready_timeout: Positive = 1_800.0
    log_timeout: Positive = 300.0
    warmup: Positive = 30.0
    load_time: Positive = 60.0


class Runtime(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A place for one engine at a time: a GPU, or several that hold one model together.

    `devices` are the GPUs, as CUDA_VISIBLE_DEVICES has them; none: all. `realtime`: the model that
    is there while nothing else is wanted; None: the latest stays. `models`: those that may be
    loaded here; none: all.
    """

    name: Annotated[str, Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")] = "gpu"
    devices: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: Port = 30_000
    realtime: str | None = None
    models: tuple[str, ...] = ()


class Rules(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When another model gets a runtime. Times are seconds.

    The realtime model gives way to batch items if no realtime call came for `min_hot` (less, the
    longer the items have waited), none made it come back within `cooldown`, and a token is left:
    there are at most `tokens`, and one more each `refill`. From half of `max_wait` on items need
    no token, and they get their model without silence so early that they start within `max_wait`.
    A realtime call waits until the model in its way has been there for `min_batch` (twice that, if
    items would be late otherwise), unless that has no work, or came for batch items and the call's
    key is urgent. An item's priority rises by one each `age_step`.
    `drain_batch` and `drain_realtime`: how long the calls of an engine may go on once another model
    is to come.
    """

    min_hot: Seconds = 600.0
    cooldown: Seconds = 120.0
    tokens: Annotated[float, Meta(ge=1)] = 3.0
    refill: Positive = 1_800.0
    min_batch: Seconds = 120.0
    max_wait: Positive = 3_600.0
    age_step: Positive = 300.0
    drain_batch: Seconds = 3.0
    drain_realtime: Seconds = 30.0


class Restarts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Seconds between starts after failures, doubled from `first` to `longest`.

    After `most` failures in a row a model is tried again only once it is asked for by an operator,
    or its failure has been kept for its time.
    """

    first: Positive = 5.0
    longest: Positive = 300.0
    most: Count = 5


class Downloads(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Downloads by the gateway: at most `at_once` at the same time.

    `keep_free_gb` stay free on the disk (1 GB: 10^9 bytes). `evict`: models that the gateway has
    downloaded make room for others, the longest unused first.
    """

    at_once: Count = 2
    keep_free_gb: Annotated[float, Meta(ge=0)] = 5.0
    evict: bool = False


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The models, the runtimes, and how calls wait for them.

    A call for a model that is not there waits for up to `hold` seconds, `max_held` calls at most.
    `comments`: streams that wait get an SSE comment each so many seconds; None: none, so that the
    status still tells whether the model came. `urgent_scope`: the scope of keys whose calls do not
    wait for `min_batch`. `evaluator_scope`: the scope of keys that are held for as long as it
    takes, and of which none is rejected for being one too many. `grace`: seconds from SIGTERM to
    SIGKILL. `logs`: the folder of the engines' logs; None: beside the database. `secrets`: names of
    variables of the gateway's environment that engines get, and whose values no log shows.
    """

    models: Annotated[tuple[Model, ...], Meta(min_length=1)]
    runtimes: Annotated[tuple[Runtime, ...], Meta(min_length=1)] = (Runtime(),)
    hold: Seconds = 240.0
    max_held: Count = 1_024
    comments: Positive | None = None
    urgent_scope: str = "urgent"
    evaluator_scope: str = "evaluator"
    rules: Rules = Rules()
    restarts: Restarts = Restarts()
    downloads: Downloads = Downloads()
    grace: Seconds = 10.0
    logs: str | None = None
    secrets: tuple[str, ...] = ("HF_TOKEN",)
