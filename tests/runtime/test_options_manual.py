"""docs/config.md lists each option of the plugin, in order, with its default."""

import json
import re
import types
from collections.abc import Iterator
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec
from gateway_plugins.runtime.options import Options
from support.paths import CONFIGS, DOCS

from gateway.config import load


def test_configuration_manual_lists_each_option_with_its_default() -> None:
    section = (DOCS / "config.md").read_text().partition("### runtime\n")[2].partition("\n##")[0]
    rows = re.findall(r"^\| `([\w.\[\]]+)` \| (.+?) \| .+ \|$", section, re.MULTILINE)
    assert rows == [*documented(Options)]


def documented(kind: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the name and the default of each option; a Struct that is there has no row itself."""
    for field in msgspec.structs.fields(kind):
        name, (inner, many) = f"{prefix}{field.name}", struct_in(field.type)
        default = default_of(field)
        if inner is None or many or default == "`null`":
            yield name, "one, named `gpu`" if name == "runtimes" else default
        if inner is not None:
            yield from documented(inner, f"{name}{'[]' if many else ''}.")


def default_of(field: Any) -> str:
    if field.required:
        return "required"
    made = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    return "`" + json.dumps(msgspec.to_builtins(made)) + "`"


def struct_in(hint: Any) -> tuple[Any, bool]:
    """Return the Struct in a type, and whether there may be several."""
    origin = get_origin(hint)
    if origin is Annotated:
        return struct_in(get_args(hint)[0])
    if origin in (Union, types.UnionType):
        return next(((one, False) for one in get_args(hint) if is_struct(one)), (None, False))
    if origin is tuple and is_struct(get_args(hint)[0]):
        return get_args(hint)[0], True
    return (hint, False) if is_struct(hint) else (None, False)


def is_struct(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, msgspec.Struct)


def test_shipped_configuration_has_valid_options() -> None:
    settings = load(CONFIGS / "gpu-box.yaml", {})
    problems: list[str] = []
    [entry] = [plugin for plugin in settings.plugins if plugin.name == "runtime"]
    options = entry.options_as(Options, problems)
    assert problems == []
    assert options is not None
    assert (settings.host, {model.engine for model in options.models}) == ("127.0.0.1", {"vllm"})
    assert len(options.models) == 2
    assert {runtime.realtime for runtime in options.runtimes} < {one.name for one in options.models}
    assert [plugin.name for plugin in settings.plugins] == [
        "auth",
        "runtime",
        "circuit_breaker",
        "backpressure",
        "usage",
        "trace_capture",
        "batch",
        "uploads",
        "metrics",
    ]
