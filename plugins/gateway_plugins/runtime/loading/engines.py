"""Commands and environments of engines: vLLM, SGLang, or any with a command of its own."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from gateway_plugins.runtime.drivers.machine.environment import SECRETS
from gateway_plugins.runtime.loading.arguments import arguments_of, options_in
from gateway_plugins.runtime.loading.snapshots import template_of
from gateway_plugins.runtime.options import Model

VLLM = ("python3", "-m", "vllm.entrypoints.openai.api_server", "--model")
SGLANG = ("python3", "-m", "sglang.launch_server", "--model-path")

QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "PYTHONUNBUFFERED": "1",  # a line that is held back looks as if the load stood still
}

LENGTH = "--max-model-len"


def command_of(
    model: Model, host: str, port: int, environ: Mapping[str, str], *, length: int | None = None
) -> tuple[str, ...]:
    """Return the command that serves `model` on that address.

    `environ` is the gateway's environment. `length`, in tokens, replaces the maximum length that
    the arguments have. Looks for a chat template on the disk. Raises ValueError.
    """
    arguments = arguments_of(model)
    if model.command is not None:
        command = _filled(model.command, model, host, port)
    else:
        place = ("--host", host, "--port", str(port), "--served-model-name", model.name)
        begin = VLLM if model.engine == "vllm" else SGLANG
        command = (*begin, model.path or model.name, *place)
        arguments = (*arguments, *_extras(model, arguments, environ))
    if length is not None:
        arguments = (*_without(arguments, LENGTH), LENGTH, str(length))
        command = tuple(_without(command, LENGTH))
    return (*command, *arguments)


def environment_of(model: Model, secrets: Mapping[str, str]) -> dict[str, str]:
    """Return what the engine of `model` gets beside the environment of its driver."""
    environment = dict(QUIET)
    if model.engine == "vllm":
        environment["VLLM_SLEEP_WHEN_IDLE"] = "1"
        if model.sleep_level is not None:
            environment["VLLM_SERVER_DEV_MODE"] = "1"
    return {**environment, **secrets, **model.environment}


def secrets_of(names: Iterable[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Return those of these variables that are set and not empty."""
    return {name: environ[name] for name in names if environ.get(name)}


def hidden_of(model: Model, secrets: Mapping[str, str]) -> set[str]:
    """Return the values that the log of an engine must not show.

    `secrets`, and those of the model's environment and arguments whose names end like one's.
    """
    arguments = (*(model.command or ()), *arguments_of(model))
    given = [*model.environment.items(), *options_in(arguments)]
    named = (value for name, value in given if _is_secret(name))
    return {value for value in (*secrets.values(), *named) if value}


def _filled(command: Sequence[str], model: Model, host: str, port: int) -> tuple[str, ...]:
    values = {"name": model.name, "path": model.path or model.name, "host": host, "port": str(port)}
    pattern = re.compile("{(" + "|".join(values) + ")}")
    return tuple(pattern.sub(lambda found: values[found[1]], part) for part in command)


def _extras(model: Model, arguments: Sequence[str], environ: Mapping[str, str]) -> Iterator[str]:
    given = {argument.partition("=")[0].replace("_", "-") for argument in arguments}
    template = None if "--chat-template" in given else template_of(model, environ)
    if template is not None:
        yield from ("--chat-template", template)
    sleeps = model.engine == "vllm" and model.sleep_level is not None
    if sleeps and "--enable-sleep-mode" not in given:
        yield "--enable-sleep-mode"


def _without(arguments: Iterable[str], option: str) -> Iterator[str]:
    """Yield the arguments but for an option that has a value, in each way of writing it."""
    rest = iter(arguments)
    for argument in rest:
        name, separate, _ = argument.partition("=")
        if name.replace("_", "-") != option:
            yield argument
        elif not separate:
            next(rest, None)


def _is_secret(name: str) -> bool:
    return name.replace("-", "_").upper().endswith(SECRETS)
