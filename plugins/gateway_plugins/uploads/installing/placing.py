"""A checked folder becomes the model of a name, at one moment."""

import hashlib
import os
import shutil
import time
from pathlib import Path

import msgspec

from gateway_plugins.uploads.installing.messages import Job, Refusal
from gateway_plugins.uploads.places import (
    MARKER,
    Marker,
    folder_of,
    marker_of,
    obstacle,
    sync_folder,
)

MAIN = "main"
TEMPORARY = ".new"

TEXTS = {
    "model_exists": "there is a model of this name, and the upload does not say `overwrite`",
    "not_owner": "there is a model of this name that this key has not uploaded",
}


def commit_of(upload_id: str) -> str:
    """Return the name of the snapshot of an upload, which looks like a commit of the hub."""
    return hashlib.sha256(upload_id.encode()).hexdigest()[:40]


def is_placed(job: Job) -> bool:
    """Whether the model is in its place already: the gateway was killed before it heard of it."""
    folder = folder_of(Path(job.cache), job.model)
    marker, main = marker_of(folder), folder / "refs" / MAIN
    if marker is None or marker.upload != job.id or not main.is_file():
        return False
    return main.read_text() == marker.commit and (folder / "snapshots" / MAIN).is_dir()


def check_obstacle(job: Job) -> None:
    """Raise Refusal if the upload may not replace the model that is there."""
    folder = folder_of(Path(job.cache), job.model)
    code = obstacle(folder, job.owner, job.replaces, job.id)
    if code is not None:
        raise Refusal("model_exists", TEXTS[code])


def place(root: Path, job: Job, sha256: str, size: int) -> str:
    """Move a folder to the place of the model; return its commit. Raises Refusal, OSError.

    The model that is there stays beside it, for the engines that have it, and is there until the
    new one is.
    """
    sync_tree(root)
    check_obstacle(job)
    folder, commit = folder_of(Path(job.cache), job.model), commit_of(job.id)
    snapshots, refs = folder / "snapshots", folder / "refs"
    for one in (folder, snapshots, refs):
        one.mkdir(mode=0o755, exist_ok=True)
    target = snapshots / commit
    if target.exists():  # the gateway was killed in the middle of what follows
        shutil.rmtree(target)
    root.rename(target)
    sync_folder(snapshots)
    marker = Marker(
        model=job.model,
        owner=job.owner,
        upload=job.id,
        commit=commit,
        sha256=sha256,
        size=size,
        uploaded_at=time.time(),
    )
    _replace(folder / MARKER, msgspec.json.encode(marker))
    _replace(refs / MAIN, commit.encode())
    _point(snapshots / MAIN, commit)
    sync_folder(Path(job.cache))
    return commit


def _replace(path: Path, content: bytes) -> None:
    new = path.with_name(f"{path.name}{TEMPORARY}")
    with new.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)
    sync_folder(path.parent)


def _point(link: Path, commit: str) -> None:
    """Let the folder `main` be that of the commit, for those who load models by their path."""
    new = link.with_name(f"{link.name}{TEMPORARY}")
    new.unlink(missing_ok=True)
    new.symlink_to(commit)
    if link.is_dir() and not link.is_symlink():  # put there by hand, or by another system
        link.rename(link.with_name(f"replaced-{time.time_ns():x}"))
    new.rename(link)
    sync_folder(link.parent)


def sync_tree(root: Path) -> None:
    """Write the entries of all folders to the disk. The files are there already."""
    root.chmod(0o755)
    for place_, _, _ in os.walk(root):
        sync_folder(Path(place_))
