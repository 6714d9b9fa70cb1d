"""Repositories of evaluations, and jobs that are submitted to a gateway."""

import json
from collections.abc import Sequence
from pathlib import Path
from textwrap import dedent
from typing import Any

from support.paths import ROOT

from gateway.config import PluginEntry, Worker
from gateway.testing import GatewayFor, Live, entry

SHIPPED = ROOT / "evaluations"

PLAIN = """
def prepare_requests(model_name, max_prompts=4):
    return {"requests": [
        {"prompt": f"Say {n}", "max_tokens": 4, "temperature": 0, "_n": n}
        for n in range(max_prompts)
    ]}

def score_results(requests, responses, metadata):
    good = [r for r in responses if "error" not in r]
    return {"metrics": {"share": len(good) / len(requests)}, "details": {}}
"""


class Folder:
    """A repository that a test writes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, name: str, code: str = PLAIN, **files: str) -> "Folder":
        """Add an evaluation; other files by their names, with `_` in place of the dot."""
        folder = self.path / "evals" / name
        folder.mkdir(parents=True)
        (folder / "eval.py").write_text(dedent(code))
        for file, text in files.items():
            (folder / file.replace("_", ".")).write_text(dedent(text))
        return self

    def defaults(self, *names: str) -> "Folder":
        (self.path / "config.json").write_text(json.dumps({"default_evals": names}))
        return self


def evaluations(repository: Path | Folder, **options: object) -> PluginEntry:
    path = repository.path if isinstance(repository, Folder) else repository
    return entry("gateway_plugins.evaluations:Evaluations", repository=str(path), **options)


async def started(
    gateway_for: GatewayFor,
    repository: Path | Folder,
    *plugins: Any,
    workers: Sequence[str | Worker] | None = None,
    **options: object,
) -> Live:
    plugin = evaluations(repository, **options)
    return await gateway_for("batch", *plugins, plugin, workers=workers)


async def submit(live: Live, *names: str, **more: object) -> str:
    """Submit a job for the model of the simulator; return its id."""
    headers: dict[str, str] = more.pop("headers", {})  # type: ignore[assignment]
    body = {"model": "sim", **({"evals": names} if names else {}), **more}
    answer = await live.client.post("/eval/submit", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["job_id"])


async def ended(live: Live, job_id: str, **headers: str) -> dict[str, Any]:
    """Wait until the job has ended; return its record."""
    record = await asked(live, job_id, "?wait=50", **headers)
    assert record["status"] in ("completed", "failed", "canceled"), record
    return record


async def asked(live: Live, job_id: str, query: str = "", **headers: str) -> dict[str, Any]:
    answer = await live.client.get(f"/eval/{job_id}{query}", headers=headers)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())
