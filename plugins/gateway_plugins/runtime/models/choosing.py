"""Which models the gateway downloads, and which ones their engines do."""

import importlib.util
from collections.abc import Mapping

from gateway_plugins.runtime.loading.arguments import arguments_of, options_in
from gateway_plugins.runtime.loading.snapshots import Place, is_name, path_of, place_of
from gateway_plugins.runtime.options import Model

LIBRARY = "huggingface_hub"

OTHER_HUBS = ("VLLM_USE_MODELSCOPE", "SGLANG_USE_MODELSCOPE")

PLAIN_FORMATS = ("auto", "safetensors", "pt")
"""Values of `--load-format` for files as they are at the hub."""


def is_installed() -> bool:
    """Whether the library of the hub is there."""
    return importlib.util.find_spec(LIBRARY) is not None


def place_to_fill(model: Model, environ: Mapping[str, str]) -> Place | None:
    """Return where the gateway downloads a model to; None: the engine finds it, or downloads it.

    `environ` is the gateway's environment. Looks at the disk.
    """
    if model.download == "engine" or model.url is not None:
        return None
    if model.download == "auto" and not (is_installed() and _is_usual(model, environ)):
        return None
    place = place_of(model, environ)
    return None if place is None or place.here is None else place


def _is_usual(model: Model, environ: Mapping[str, str]) -> bool:
    """Whether the engine loads the model's files at the hub from the usual cache."""
    if model.command is not None:
        return False
    own = model.environment if model.docker is not None else {**environ, **model.environment}
    if any(own.get(name, "").lower() in ("1", "true") for name in OTHER_HUBS):
        return False
    try:
        given = dict(options_in(arguments_of(model)))
    except ValueError:  # the start of the engine tells it
        return False
    given = {name.replace("_", "-"): value for name, value in given.items()}
    return "--download-dir" not in given and given.get("--load-format", "auto") in PLAIN_FORMATS


def problem_of(model: Model) -> str | None:
    """Return why the gateway cannot download a model as its option `download` says."""
    if model.download != "gateway":
        return None
    if not is_installed():
        return "download: gateway needs `pip install 'llm-call-gateway[hub]'`"
    if model.url is not None:
        return "download: an engine with a url has its own files"
    if not is_name(path_of(model)):
        return "download: gateway is for a name at the hub, ORGANISATION/NAME"
    if model.docker is not None and not _is_shared(model):
        return (
            "download: gateway needs a folder of the host in docker.volumes for the hub's cache, "
            "/root/.cache/huggingface unless its environment says otherwise"
        )
    return None


def _is_shared(model: Model) -> bool:
    place = place_of(model, {})
    return place is not None and place.here is not None
