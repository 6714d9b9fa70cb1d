"""The JSON Schema of a configuration file, for editors."""

from typing import Any

import msgspec

from gateway.config.model import Config
from gateway.config.worker import Url

_REFERENCE = {"$ref": "#/$defs/Reference"}


def schema() -> bytes:
    """Return the JSON Schema (2020-12) of a configuration file, as JSON text.

    Includes the notations that the Structs lack: a worker may be a URL, a plugin is a name or a
    mapping with one name, and `${NAME}` may stand for any value.
    """
    root = msgspec.json.schema(Config, schema_hook=lambda _: {"description": "Any value."})
    parts = root["$defs"]
    del parts["Node"]
    del parts["Config"]["properties"]["warnings"]
    for part in parts.values():
        _for_reader(part)
    parts["Worker"] = {"anyOf": [msgspec.json.schema(Url), parts["Worker"], _REFERENCE]}
    parts["PluginEntry"] = _plugin()
    parts["Reference"] = {
        "type": "string",
        "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*(:[-?][^{}]*)?\}",
    }
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Gateway"} | root
    return msgspec.json.format(msgspec.json.encode(whole), indent=2)


def _for_reader(part: dict[str, Any]) -> None:
    """Drop details for programmers from one Struct's schema, and allow `${NAME}` in each field."""
    part["description"] = part["description"].partition("\n\n")[0]
    for name, written in part["properties"].items():
        about = {key: written.pop(key) for key in ("description", "default") if key in written}
        if about.get("default") == "":
            # An empty default stands for one computed from the worker's other fields.
            del about["default"]
        choices = written.get("anyOf", [written])
        part["properties"][name] = {"anyOf": [*choices, _REFERENCE]} | about


def _plugin() -> dict[str, Any]:
    one = {"minProperties": 1, "maxProperties": 1}
    options = {"additionalProperties": {"type": ["object", "null"]}}
    return {
        "description": "A plugin to run: its name, or its name over its options.",
        "anyOf": [{"type": "string", "minLength": 1}, {"type": "object"} | one | options],
    }
