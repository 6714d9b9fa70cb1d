"""Where the files of a model are: as its engine sees them, and as this process does.

An engine in a container sees other paths than the gateway. Its volumes say which are the same.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from gateway_plugins.runtime.drivers.containers.volumes import outside
from gateway_plugins.runtime.options import Model

TEMPLATE = "chat_template.jinja"

CONTAINER_HOME = "/root"


def template_of(model: Model, environ: Mapping[str, str]) -> str | None:
    """Return the path at which the engine finds the chat template of a model; None: it has none.

    `environ` is the gateway's environment. Reads the disk.
    """
    path = model.path or model.name
    for place in (PurePosixPath(path), *_snapshot(path, _cache(model, environ), model)):
        seen = _here(place, model)
        if seen is not None and (seen / TEMPLATE).is_file():
            return str(place / TEMPLATE)
    return None


def _cache(model: Model, environ: Mapping[str, str]) -> PurePosixPath:
    """The hub's cache, as the engine sees it."""
    own = model.environment if model.docker is not None else {**environ, **model.environment}
    home = own.get("HOME", CONTAINER_HOME)
    if own.get("HF_HUB_CACHE"):
        return PurePosixPath(own["HF_HUB_CACHE"])
    return PurePosixPath(own.get("HF_HOME") or f"{home}/.cache/huggingface", "hub")


def _snapshot(path: str, cache: PurePosixPath, model: Model) -> Sequence[PurePosixPath]:
    """The folder of the main revision of a model at the hub, none if it is not in the cache."""
    folder = cache / f"models--{path.replace('/', '--')}"
    seen = _here(folder, model)
    try:
        revision = (seen / "refs/main").read_text().strip() if seen is not None else ""
    except (OSError, UnicodeDecodeError):
        revision = "main"  # a model that was put there by hand
    return [folder / "snapshots" / revision] if revision else []


def _here(place: PurePosixPath, model: Model) -> Path | None:
    """The place as this process sees it, None if it is in no folder of the host."""
    if model.docker is None:
        return Path(place)
    found = outside(str(place), model.docker.volumes)
    return None if found is None else Path(found)
