"""What the options must fulfil together."""

from collections import Counter
from collections.abc import Iterator

from gateway import Config, ConfigError
from gateway_plugins.runtime.drivers.ports import ports_of, runs
from gateway_plugins.runtime.models.choosing import problem_of
from gateway_plugins.runtime.options import Model, Options, Runtime


def problems_of(options: Options) -> list[str]:
    """Return what is wrong with the options, one line for each mistake."""
    return [*_of_models(options), *_of_runtimes(options)]


def problems_of_reload(before: Options, now: Options) -> list[str]:
    """Return what only a restart can change: the places of engines, and which ones sleep."""
    found = []
    if [_place(one) for one in before.runtimes] != [_place(one) for one in now.runtimes]:
        found.append(
            "runtime.runtimes: names, devices, hosts and ports are read only at the start; "
            "restart the gateway to change them"
        )
    if _sleepers(before) != _sleepers(now):
        found.append(
            "runtime.models: which models sleep, where and how, is read only at the start; "
            "restart the gateway to change it"
        )
    return found


def _place(runtime: Runtime) -> tuple[object, ...]:
    return runtime.name, runtime.devices, runtime.host, runtime.port


def _sleepers(options: Options) -> list[tuple[object, ...]]:
    return [
        (runtime.name, model.name, model.url, model.sleep_level, model.docker is None)
        for runtime in options.runtimes
        for model in options.models
        if model.sleep_level is not None and runs(model, runtime)
    ]


def taken_ids(options: Options, config: Config) -> list[str]:
    """Return a line for each runtime whose name a worker of the configuration has as its id."""
    ids = {worker.worker_id for worker in config.workers}
    return [
        f"runtime.runtimes: {one.name}: a worker of the configuration has this `worker_id`, which "
        "the engine's worker gets; rename one of them"
        for one in options.runtimes
        if one.name in ids
    ]


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
    if problem := problem_of(model):
        yield f"{where}: {problem}"


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
