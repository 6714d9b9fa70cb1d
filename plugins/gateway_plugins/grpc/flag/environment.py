"""The variables of the server whose place the gateway takes, as settings of the gateway."""

from collections.abc import Mapping
from pathlib import Path

from gateway import ConfigError, Variable
from gateway_plugins.grpc.flag.dotenv import read_dotenv

DOTENV = ".env.dev"
"""The file in the working directory whose variables count where the environment has none."""

PORT = ("LLM_GATEWAY_PORT", "PORT")
WORKER = ("VLLM_URL",)
MODEL = ("LLM_DEFAULT_MODEL", "DEFAULT_MODEL")
TIMEOUT = ("LLM_TIMEOUT_MS", "TIMEOUT_MS")
LEVEL = ("LOG_LEVEL",)
"""Names of each setting: that which the old server reads, then that which its manual has."""

NAMES = frozenset((*PORT, *WORKER, *MODEL, *TIMEOUT, *LEVEL))

LEVELS = {"warn": "warning"}

Found = Mapping[str, Variable]


def variables(environ: Mapping[str, str]) -> Found:
    """Return those of NAMES that are set. Raises ConfigError if `.env.dev` cannot be read."""
    ours = {name: Variable(name, environ[name]) for name in NAMES if name in environ}
    found = read_dotenv(Path(DOTENV), NAMES) | ours
    return {name: one for name, one in found.items() if not _is_of_kubernetes(one)}


def _is_of_kubernetes(variable: Variable) -> bool:
    """Whether Kubernetes set it: it does so in each pod beside a service named `llm-gateway`."""
    return variable.name == "LLM_GATEWAY_PORT" and variable.value.startswith("tcp://")


def options(found: Found) -> dict[str, object]:
    """Return the options of the plugin. Raises ConfigError."""
    port, model = _first(found, PORT), _given(found, MODEL)
    told = {"port": None if port is None else _checked_port(port), "default_model": model}
    return {name: value for name, value in told.items() if value is not None}


def fields(found: Found) -> dict[str, object]:
    """Return the fields of the configuration. Raises ConfigError."""
    told: dict[str, object] = {}
    if (worker := _given(found, WORKER)) is not None:
        told["workers"] = [Variable(worker.name, _url(worker.value))]
    if (timeout := _given(found, TIMEOUT)) is not None and (seconds := _seconds(timeout)):
        told["timeouts"] = {"first_byte": seconds, "idle": seconds}
    if (level := _given(found, LEVEL)) is not None:
        name = level.value.lower()
        told["log_level"] = Variable(level.name, LEVELS.get(name, name))
    return told


def _first(found: Found, names: tuple[str, ...]) -> Variable | None:
    return next((found[name] for name in names if name in found), None)


def _given(found: Found, names: tuple[str, ...]) -> Variable | None:
    """Return the first that is set and not empty, as the old server does."""
    return next((found[name] for name in names if name in found and found[name].value), None)


def _checked_port(variable: Variable) -> Variable:
    """Return a port. An empty one was a random one once, so callers could not find the server."""
    text = variable.value
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and int(text) <= 65_535):
        what = f'got "{text[:20]}"' if text else "it is empty; set it, or unset it for 50052"
        raise ConfigError(f"{variable.name}: expected a port from 0 to 65535, {what}")
    return variable


def _seconds(variable: Variable) -> float:
    """Return a time in seconds; 0 stands for the gateway's own limits."""
    text = variable.value
    if not (text.isascii() and text.isdecimal() and len(text) <= 12):
        raise ConfigError(
            f'{variable.name}: expected a whole number of milliseconds, got "{text[:20]}"'
        )
    return int(text) / 1000


def _url(text: str) -> str:
    """Return a worker's URL; the old server appends /v1/chat/completions to what it is given."""
    base = text.rstrip("/")
    _, scheme, rest = base.partition("://")
    return f"{base}/v1" if scheme and "/" in rest and not base.endswith("/v1") else base
