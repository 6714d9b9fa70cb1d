"""Where the files of a model are: as its engine sees them, and as this process does.

An engine in a container sees other paths than the gateway. Its volumes say which are the same. A
model at the hub is in the hub's cache: `CACHE/models--ORG--NAME/snapshots/COMMIT`, and
`refs/main` there names the commit. The gateway looks for a model, and downloads it, at this one
place, where its engine looks as well.
"""

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import msgspec

from gateway_plugins.runtime.drivers.containers.volumes import outside
from gateway_plugins.runtime.drivers.machine.environment import scrubbed
from gateway_plugins.runtime.loading.arguments import arguments_of, options_in
from gateway_plugins.runtime.options import Model

TEMPLATE = "chat_template.jinja"

CONTAINER_HOME = "/root"

MAIN = "main"

_PART = "[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_NAME = re.compile(f"{_PART}(?:/{_PART})?")
_COMMIT = re.compile("[0-9a-f]{40}")
_LONGEST_REFERENCE = 200


class Place(msgspec.Struct, frozen=True):
    """A model at the hub: its `repository` there, and its `folder` in the cache of its engine.

    `revision` is a branch, a tag or a commit. `here` is the folder as this process sees it, None
    if it is in no folder of the host.
    """

    repository: str
    revision: str
    folder: PurePosixPath
    here: Path | None

    @property
    def commit(self) -> str | None:
        """The commit of the revision in the cache, None if there is none. Reads the disk."""
        if _COMMIT.fullmatch(self.revision):
            return self.revision
        if self.here is None:
            return None
        try:
            with (self.here / "refs" / self.revision).open() as file:
                found = file.read(_LONGEST_REFERENCE).strip()
        except (OSError, UnicodeDecodeError):
            return self.revision  # a model that was put there by hand
        return found if found and "/" not in found and found != ".." else None

    @property
    def snapshot(self) -> Path | None:
        """The folder of the revision's files as this process sees it. Reads the disk."""
        commit = self.commit
        return None if self.here is None or commit is None else self.here / "snapshots" / commit


def path_of(model: Model) -> str:
    """Return what the engine is told to load."""
    return model.path or model.name


def place_of(model: Model, environ: Mapping[str, str]) -> Place | None:
    """Return where the hub's cache has, or will have, a model; None: it is a folder, or a file.

    `environ` is the gateway's environment. Looks at the disk.
    """
    path = path_of(model)
    if not is_name(path) or (model.docker is None and Path(path).exists()):
        return None
    folder = cache_of(model, environ) / f"models--{path.replace('/', '--')}"
    return Place(path, revision_of(model), folder, here(folder, model))


def is_name(path: str) -> bool:
    """Whether a text may be the name of a model at the hub."""
    forbidden = "--" in path or ".." in path or path.endswith(".git")
    return bool(_NAME.fullmatch(path)) and not forbidden


def revision_of(model: Model) -> str:
    """Return the revision that the engine is told to load."""
    try:
        given = dict(options_in(arguments_of(model)))
    except ValueError:  # the start of the engine tells it
        given = {}
    found = given.get("--revision") or MAIN
    return found if ".." not in found and not found.startswith("/") else MAIN


def template_of(model: Model, environ: Mapping[str, str]) -> str | None:
    """Return the path at which the engine finds the chat template of a model; None: it has none.

    `environ` is the gateway's environment. Reads the disk.
    """
    places = [PurePosixPath(path_of(model))]
    found = place_of(model, environ)
    if found is not None and (commit := found.commit) is not None:
        places.append(found.folder / "snapshots" / commit)
    for place in places:
        seen = here(place, model)
        if seen is not None and (seen / TEMPLATE).is_file():
            return str(place / TEMPLATE)
    return None


def cache_of(model: Model, environ: Mapping[str, str]) -> PurePosixPath:
    """Return the hub's cache, as the engine of a model sees it."""
    inherited = {} if model.docker is not None else scrubbed(environ)
    own = {**inherited, **model.environment}
    home = own.get("HOME", CONTAINER_HOME)
    base = own.get("XDG_CACHE_HOME") or f"{home}/.cache"
    named = own.get("HF_HUB_CACHE") or own.get("HUGGINGFACE_HUB_CACHE")
    found = named or f"{own.get('HF_HOME') or f'{base}/huggingface'}/hub"
    return PurePosixPath(home + found[1:] if found.startswith("~/") else found)


def here(place: PurePosixPath, model: Model) -> Path | None:
    """Return a place of the engine as this process sees it, None if no folder of the host has it.

    A place that is relative is so to the folder of this process.
    """
    if model.docker is None:
        return Path(place)
    found = outside(str(place), model.docker.volumes)
    return None if found is None else Path(found)
