"""What the options must fulfil together."""

from collections import Counter
from collections.abc import Iterator

from gateway import ConfigError
from gateway_plugins.runtime.drivers.ports import ports_of
from gateway_plugins.runtime.options import Model, Options, Runtime


def problems_of(options: Options) -> list[str]:
    """Return what is wrong with the options, one line for each mistake."""
    return [*_of_models(options), *_of_runtimes(options)]


def _of_models(options: Options) -> Iterator[str]:
    for name, count in Counter(model.name for model in options.models).items():
        if count > 1:
            yield f"runtime.models: the name {name} is given {count} times"
    for model in options.models:
        yield from _of_model(model)


def _of_model(model: Model) -> Iterator[str]:
    where = f"runtime.models: {model.name}"
    if model.url is not None and model.sleep_level is None:
        yield f"{where}: an engine with a url is woken and put to sleep; set sleep_level"
    if model.url is not None and model.docker is not None:
        yield f"{where}: give url or docker, not both"
    if model.sleep_level is not None and model.engine != "vllm":
        yield f"{where}: only vllm can sleep"


def _of_runtimes(options: Options) -> Iterator[str]:
    known = {model.name for model in options.models}
    for name, count in Counter(runtime.name for runtime in options.runtimes).items():
        if count > 1:
            yield f"runtime.runtimes: the name {name} is given {count} times"
    try:
        ports_of(options)
    except ConfigError as error:
        yield f"runtime.runtimes: {error}"
    for runtime in options.runtimes:
        yield from _of_runtime(runtime, known)


def _of_runtime(runtime: Runtime, known: set[str]) -> Iterator[str]:
    where = f"runtime.runtimes: {runtime.name}"
    for name in runtime.models:
        if name not in known:
            yield f"{where}: models: there is no model {name}"
    allowed = set(runtime.models) or known
    if runtime.realtime is not None and runtime.realtime not in allowed:
        yield f"{where}: realtime: {runtime.realtime} is none of its models"
