"""Where the plugin has its files.

In its folder are `results`, `pythons`, and `work/{job}/{place}` of each evaluation.
"""

import os
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from gateway_plugins.evaluations.children.removing import remove
from gateway_plugins.evaluations.rows.jobs import Job, Run


class Places:
    """The files below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pythons = folder / "pythons"
        self.lock = folder / "conductor.lock"

    def listing(self) -> Path:
        """Return the folder for the files of the list of evaluations."""
        return self.folder / "work" / "listing"

    def work(self, job_id: str, place: int) -> Path:
        """Return the folder for the work on an evaluation."""
        return self.folder / "work" / job_id / str(place)

    def new_results(self, job: Job) -> Path:
        """Make and return the folder for the results of a job; `latest` beside it leads to it.

        It is named after the second of the submission, and after the job if another has this name.
        """
        model = job.model.replace("/", "--").replace(":", "_")
        parent = self.folder / "results" / model
        parent.mkdir(parents=True, exist_ok=True)
        second = time.strftime("%Y-%m-%d_%H-%M-%S", time.gmtime(job.created))
        place = parent / second
        try:
            place.mkdir()
        except FileExistsError:
            place = parent / f"{second}_{job.id}"
            place.mkdir(exist_ok=True)
        link = parent / f".latest-{job.id}"
        link.unlink(missing_ok=True)
        link.symlink_to(place.name)
        link.replace(parent / "latest")
        return place

    def forget(self, job_id: str, place: int | None = None) -> None:
        """Delete the work on a job, or on one of its evaluations."""
        work = self.folder / "work" / job_id
        remove(work if place is None else work / str(place))


def put(written: Path, target: Path, *, keep: bool) -> None:
    """Move a file to the results. If the target is there, `keep` it under a number."""
    if target.exists() and keep:
        target.rename(_numbered(target))
    shutil.copyfile(written, target.with_name(f".{target.name}"))
    with target.with_name(f".{target.name}").open("rb") as file:
        os.fsync(file.fileno())
    target.with_name(f".{target.name}").replace(target)


def _numbered(target: Path) -> Path:
    taken = [
        int(found[1])
        for file in target.parent.glob(f"{target.stem}.*{target.suffix}")
        if (found := re.fullmatch(rf"{re.escape(target.stem)}\.(\d+)", file.stem))
    ]
    return target.with_name(f"{target.stem}.{max(taken, default=0) + 1}{target.suffix}")


class Line(msgspec.Struct, frozen=True):
    """A line of `results.jsonl`, which has one for each score of a model."""

    job_id: str
    eval_name: str
    model: str
    timestamp: str
    metrics: msgspec.Raw


def append(file: Path, line: Line) -> None:
    """Add a line to `results.jsonl`, unless it is there already."""
    text = msgspec.json.encode(line) + b"\n"
    with suppress(FileNotFoundError), file.open("rb") as known:
        if any(one == text for one in known):
            return
    with file.open("ab") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())


def timestamp(seconds: float) -> str:
    """Return Unix seconds as ISO 8601 in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def results_of(job: Job, run: Run) -> Path | None:
    """Return the file of an evaluation's results, None if there is none."""
    if job.folder is None:
        return None
    return Path(job.folder) / f"{run.name}_results.json"
