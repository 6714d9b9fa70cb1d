"""Writes the configuration: a line, or a comment, for each variable of the table."""

import sys
from collections.abc import Iterator

import yaml

from gateway_plugins.runtime.importing.found import Found
from gateway_plugins.runtime.importing.values import Value
from gateway_plugins.runtime.importing.variables import BY_NAME, VARIABLES

HEAD = """\
# Written by `gateway import-orchestrator`. Comments name the variables of the orchestrator; the
# table in docs/runtime.md has them. An option after a # has the value that the orchestrator takes
# without its variable.
"""


def configuration(found: Found, keys_file: str) -> str:
    """Return the YAML text; `keys_file` is where the plugin `auth` finds the keys."""
    return "".join(f"{line}\n" for line in _lines(found, keys_file))


def _lines(found: Found, keys_file: str) -> Iterator[str]:
    yield from HEAD.splitlines()
    yield "host: 127.0.0.1   # the orchestrator's compose file: 0.0.0.0, all interfaces"
    yield "port: 8000        # as in its compose file"
    yield ""
    yield "plugins:"
    yield "  - auth:"
    yield f"      keys_file: {scalar(keys_file)}   # AUTH_KEYS_FILE"
    yield _option(found, 6, "AUTH_KEYS_WATCH_INTERVAL_S")
    yield "  - runtime:"
    yield from _models(found)
    yield from _runtimes(found)
    yield from _rules(found)
    yield from _places(found)
    yield "  - circuit_breaker"
    yield "  - backpressure"
    yield "  - usage:"
    yield _option(found, 6, "USAGE_BUCKET_TTL_S")
    yield _option(found, 6, "INTERNAL_EVAL_KEY_ID")
    yield "  - batch:"
    yield _option(found, 6, "MAX_CONCURRENT_BATCH")
    yield "  - metrics"
    yield ""
    yield "storage: {path: gateway.db}"
    yield ""
    yield "# Variables without an effect:"
    for variable in VARIABLES:
        if not variable.option:
            yield f"#   {variable.name}: {variable.note}"


def _models(found: Found) -> Iterator[str]:
    yield "      models:"
    yield "        - &model"
    yield _line(found, 10, "name", "REALTIME_MODEL")
    yield _line(found, 10, "engine", "RUNTIME_TYPE")
    yield _line(found, 10, "arguments", "RUNTIME_ARGS")
    yield _option(found, 10, "DEFAULT_READY_TIMEOUT_S")
    yield _option(found, 10, "VLLM_READY_TIMEOUT_S")
    yield "          # It needs `pip install 'llm-call-gateway[docker]'`. Without this group the"
    yield "          # engine is a process of this machine. With `[docker,hub]` the gateway"
    yield "          # downloads models that are missing."
    yield "          docker:"
    yield _line(found, 12, "image", "RUNTIME_IMAGE")
    yield from _volumes(found)
    yield "        # Each model that batch items name has to be listed:"
    yield "        # - {<<: *model, name: another/model}"


def _volumes(found: Found) -> Iterator[str]:
    """Write the folders that are set as volumes, the others as comments."""
    folders = {
        "HOST_HF_CACHE": "/root/.cache/huggingface",
        "HOST_HF_CACHE_HOST": "/root/.cache/huggingface",
        "VLLM_CACHE_HOST": "/root/.cache/vllm",
    }
    there = any(name in found.values for name in folders)
    yield f"            {'' if there else '# '}volumes:"
    for name, inside in folders.items():
        if name in found.values:
            yield f"              - {scalar(f'{found.values[name]}:{inside}')}   # {name}"
        else:
            yield f"              # - FOLDER:{inside}   # {_origin(found, name)}"


def _runtimes(found: Found) -> Iterator[str]:
    yield "      runtimes:"
    yield _line(found, 8, "- realtime", "REALTIME_MODEL")
    yield _line(found, 10, "port", "RUNTIME_PORT")


def _rules(found: Found) -> Iterator[str]:
    names = [one.name for one in VARIABLES if one.option.startswith("runtime.rules.")]
    there = any(name in found.values for name in names)
    yield f"      {'' if there else '# '}rules:"
    for name in names:
        yield _option(found, 8, name)


def _places(found: Found) -> Iterator[str]:
    """Write what the runtime has apart from its models and rules."""
    if "HF_TOKEN" in found.values:
        yield "      secrets: [HF_TOKEN]   # HF_TOKEN: to be set in the environment of the gateway"
    else:
        yield f"      # secrets: [HF_TOKEN]   # {_origin(found, 'HF_TOKEN')}"
    yield _option(found, 6, "RUNTIME_FAILURE_LOG_DIR")


def _option(found: Found, indent: int, name: str) -> str:
    """Return the line of a variable's option, as a comment if the variable is not set."""
    sign = "" if name in found.values else "# "
    return _line(found, indent, sign + BY_NAME[name].key, name)


def _line(found: Found, indent: int, key: str, name: str) -> str:
    return f"{' ' * indent}{key}: {scalar(found.value(name))}   # {_origin(found, name)}"


def _origin(found: Found, name: str) -> str:
    """Return the variable's name, and why it has no effect if it has none."""
    if name in found.values:
        return name
    return f"{name}: {found.without_effect.get(name, 'not set')}"


def scalar(value: Value) -> str:
    """Return a text, a number or a list of texts as one line of YAML.

    The gateway reads the same value: nothing in it is a reference to the environment.
    """
    if isinstance(value, str):
        return _flow([value])[1:-1]
    if isinstance(value, list):
        return _flow(value)
    return str(yaml.safe_dump(value)).removesuffix("\n...\n")


def _flow(texts: list[str]) -> str:
    """Return a YAML list. Line breaks, of which YAML knows several, are in escapes."""
    text: str = yaml.safe_dump(
        [one.replace("${", "$${") for one in texts],
        default_flow_style=True,
        default_style=None if all(one.isprintable() for one in texts) else '"',
        width=sys.maxsize,
        allow_unicode=True,
    )
    return text.removesuffix("\n")
