"""The typed configuration: a YAML or TOML file, then the environment, then the command line.

    config = load(Path("gateway.yaml"), os.environ, {"port": 9000})

A plugin's options become its own Struct by `PluginEntry.options_as`, through the same `convert`
and with the same words; `Note` and `FieldError` say what a type cannot.
"""

from gateway.config.conversion import FieldError, convert
from gateway.config.environment import OPTIONS
from gateway.config.hints import Note
from gateway.config.layers import load
from gateway.config.model import (
    Config,
    Failover,
    Limits,
    PluginEntry,
    Probes,
    StorageSettings,
    Timeouts,
    is_loopback,
)
from gateway.config.node import Node
from gateway.config.schemas import schema
from gateway.config.worker import TLS, Worker, distinct, split_url

__all__ = [
    "OPTIONS",
    "TLS",
    "Config",
    "Failover",
    "FieldError",
    "Limits",
    "Node",
    "Note",
    "PluginEntry",
    "Probes",
    "StorageSettings",
    "Timeouts",
    "Worker",
    "convert",
    "distinct",
    "is_loopback",
    "load",
    "schema",
    "split_url",
]
