"""The typed configuration: a YAML or TOML file, then the environment, then the command line.

    config = load(Path("gateway.yaml"), os.environ, {"port": 9000})

`PluginEntry.options_as` converts a plugin's options to the plugin's own Struct, through the same
`convert` and with the same messages. `Note` and `FieldError` express what a type cannot, and a
class variable `renamed_until` lists former names of fields (see renames.py).
"""

from gateway.config.conversion import FieldError, convert
from gateway.config.hints import Note
from gateway.config.model import (
    MEMORY,
    Config,
    Cors,
    Failover,
    PluginEntry,
    Probes,
    ServerLimits,
    StorageSettings,
    Timeouts,
    is_loopback,
)
from gateway.config.node import Node
from gateway.config.probe import Expected, Preset, WorkerProbe, expected
from gateway.config.renames import former_names
from gateway.config.schemas import schema
from gateway.config.sources.environment import OPTIONS
from gateway.config.sources.layers import load
from gateway.config.worker import DEFAULT_PORTS, TLS, Worker, WorkerApi, distinct, split_url

__all__ = [
    "DEFAULT_PORTS",
    "MEMORY",
    "OPTIONS",
    "TLS",
    "Config",
    "Cors",
    "Expected",
    "Failover",
    "FieldError",
    "Node",
    "Note",
    "PluginEntry",
    "Preset",
    "Probes",
    "ServerLimits",
    "StorageSettings",
    "Timeouts",
    "Worker",
    "WorkerApi",
    "WorkerProbe",
    "convert",
    "distinct",
    "expected",
    "former_names",
    "is_loopback",
    "load",
    "schema",
    "split_url",
]
