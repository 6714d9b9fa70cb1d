"""Ports of engines. Engines that sleep beside each other need one each."""

from gateway import ConfigError
from gateway_plugins.runtime.options import Model, Options, Runtime

Ports = dict[tuple[str, str], int]
"""The port of each runtime's (the first) engine of each model (the second)."""


def ports_of(options: Options) -> Ports:
    """Return the ports of all engines that this gateway starts.

    Engines that end have the port of their runtime; those that sleep have the ports that follow, in
    the order of the models. Raises ConfigError if a port is given twice on one host, or there is
    none of this number.
    """
    ports = {key: port for runtime in options.runtimes for key, port in _ports(runtime, options)}
    hosts = {runtime.name: runtime.host for runtime in options.runtimes}
    taken: dict[tuple[str, int], str] = {}
    for (runtime, model), port in ports.items():
        if port > 65_535:
            raise ConfigError(f"{runtime}: no port is left for model {model} above 65535")
        other = taken.setdefault((hosts[runtime], port), runtime)
        if other != runtime:
            raise ConfigError(
                f"{other} and {runtime} both need port {port} on {hosts[runtime]}: each needs a "
                "`port` with room for each model that sleeps"
            )
    return ports


def _ports(runtime: Runtime, options: Options) -> list[tuple[tuple[str, str], int]]:
    models = [one for one in options.models if one.url is None and runs(one, runtime)]
    asleep = [model.name for model in models if model.sleep_level is not None]
    return [
        (
            (runtime.name, model.name),
            runtime.port + 1 + asleep.index(model.name) if model.name in asleep else runtime.port,
        )
        for model in models
    ]


def runs(model: Model, runtime: Runtime) -> bool:
    """Return whether the model may be loaded on the runtime."""
    return not runtime.models or model.name in runtime.models
