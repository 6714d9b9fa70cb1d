"""lm-eval has the same scores beside the gateway, through it, and as a shipped evaluation.

`VLLM_HOME=DIR LM_EVAL=PYTHON pytest -m vllm tests/evaluations -n 0`: DIR has `venv/bin/vllm`,
`model` and `model-b`; PYTHON is an interpreter that has `lm-eval[api]` and `transformers`.
"""

import asyncio
import json
import os
import shutil
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.paths import ROOT
from support.runtime.serving_box import (
    HARNESS,
    OTHER,
    OWN,
    Box,
    engines,
    serving_box,
    settings,
)

pytestmark = [pytest.mark.vllm, pytest.mark.clients, pytest.mark.timeout(3_000)]

ITEMS = 50
CHOICES = 3
"""Log-likelihoods that an item of `likely` needs."""

COMPLETIONS = "/v1/completions"

TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
doc_to_text: "{{{{question}}}}"
"""

GENERATED = """
output_type: generate_until
doc_to_target: "the answer to this question is {{answer}}"
generation_kwargs: {max_gen_toks: 16, until: ["\\n"], do_sample: false}
metric_list: [{metric: exact_match}, {metric: chrf}]
"""

LIKELY = """
output_type: multiple_choice
doc_to_target: "{{choices.index(answer)}}"
doc_to_choice: "{{choices}}"
metric_list: [{metric: acc}, {metric: brier_score}]
"""
"""Its Brier score depends on each log-likelihood, as the chrF does on each text."""

TASKS = {"generated": GENERATED, "likely": LIKELY}

Results = Mapping[str, float]


def harness() -> str:
    python = os.environ.get("LM_EVAL")
    if python is None:
        pytest.skip("set LM_EVAL to a Python that has lm-eval")
    return python


def repository(folder: Path) -> Path:
    """The shipped evaluations, without packages to install: the harness is there."""
    made = folder / "evaluations"
    leave = shutil.ignore_patterns("requirements.txt", "__pycache__")
    shutil.copytree(ROOT / "evaluations", made, ignore=leave)
    return made


def write_tasks(folder: Path) -> Path:
    made = folder / "tasks"
    made.mkdir()
    data = ROOT / "evaluations/evals/lm_harness/tasks/sums.jsonl"
    assert len(data.read_text().splitlines()) == ITEMS
    for name, text in TASKS.items():
        (made / f"{name}.yaml").write_text(TASK.format(name=name, data=data) + text)
    return made


class Live:
    """Runs of lm-eval as its users start them."""

    def __init__(self, folder: Path, tokenizer: Path) -> None:
        self._folder = folder
        self._tasks = write_tasks(folder)
        self._tokenizer = tokenizer

    async def run(self, name: str, url: str) -> tuple[Results, Any]:
        """The scores, and the engine's answers to each item."""
        given = {
            "model": OWN,
            "base_url": f"{url}{COMPLETIONS}",
            "tokenizer": self._tokenizer,
            "max_length": 2048,
            "num_concurrent": 8,
        }
        output = self._folder / name
        process = await asyncio.create_subprocess_exec(
            *(harness(), "-m", "lm_eval", "run", "--model", "local-completions"),
            *("--model_args", ",".join(f"{key}={value}" for key, value in given.items())),
            *("--tasks", ",".join(TASKS), "--include_path", str(self._tasks)),
            *("--output_path", str(output), "--log_samples"),
            stdout=PIPE,
            stderr=STDOUT,
            env={**os.environ, **offline(self._folder), "OPENAI_API_KEY": HARNESS},
        )
        said, _ = await process.communicate()
        assert process.returncode == 0, said.decode()
        return scores(output), answers(output)


def offline(folder: Path) -> dict[str, str]:
    places = {"HF_HOME": str(folder / "hf"), "HF_DATASETS_CACHE": str(folder / "datasets")}
    return {**places, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


def scores(output: Path) -> Results:
    """By task and metric, as the shipped evaluation names them."""
    [file] = output.rglob("results*.json")
    found = json.loads(file.read_text())["results"]
    return {
        f"{task}:{name.removesuffix(',none')}": found[task][name]
        for task in TASKS
        for name in found[task]
        if name.endswith(",none") and not name.endswith("_stderr,none")
    }


def answers(output: Path) -> Any:
    found = {}
    for task in TASKS:
        [file] = output.rglob(f"samples_{task}_*.jsonl")
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        found[task] = {line["doc_id"]: line["resps"] for line in lines}
        assert len(found[task]) == ITEMS
    return found


async def shipped(box: Box, tasks: Path, tokenizer: Path) -> Results:
    status, out, error = await box.command(
        *("eval", "submit", OWN, "lm_harness", "--arg", f"tasks={json.dumps(list(TASKS))}"),
        *("--arg", f"include_path={tasks}", "--arg", f"tokenizer={tokenizer}"),
    )
    assert status == 0, out + error
    record = (await box.client.get(f"/eval/{out.split()[0]}")).json()
    found = record["eval_status"]["lm_harness"]
    assert found["progress"] == f"{ITEMS * (1 + CHOICES)}/{ITEMS * (1 + CHOICES)}"
    assert found["details"]["http_errors"]["total_errors"] == 0
    return dict(found["results"])


async def force_a_switch(box: Box, after: int) -> None:
    """Call the other model as soon as so many calls of the harness have ended."""
    while await box.calls(COMPLETIONS) < after:  # noqa: ASYNC110  until another process has come so far
        await asyncio.sleep(0.05)
    answer = await box.chat(OTHER)
    assert (answer.status_code, answer.json()["model"]) == (200, OTHER)


async def test_scores_are_those_of_the_engine_itself(tmp_path: Path) -> None:
    home, python = engines(), harness()
    model = home / "model"
    given = settings(
        tmp_path,
        home,
        model,
        repository=str(repository(tmp_path)),
        python=python,
        environment=offline(tmp_path),
    )
    runs = Live(tmp_path, model)
    async with serving_box(tmp_path, given) as box:
        forcing = asyncio.create_task(force_a_switch(box, ITEMS // 2))
        through, said = await runs.run("through", box.url)  # from a cold start
        await forcing
        assert await box.loads() == [f"hot({OWN})", f"hot({OTHER})", f"hot({OWN})"]
        straight, direct = await runs.run("straight", await box.engine())
        assert said == direct
        assert through == straight
        assert all(value > 0 for name, value in straight.items() if "exact_match" not in name)
        by_queue = await shipped(box, tmp_path / "tasks", model)
        assert {name: by_queue[name] for name in straight} == straight
        assert await box.loads() == [f"hot({OWN})", f"hot({OTHER})", f"hot({OWN})"]
