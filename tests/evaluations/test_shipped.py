"""The shipped adapters beside live runs of the same harnesses, unmodified, on the same engine.

Opt-in (`-m clients`): the plugin installs the packages of the adapters.
"""

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.evaluations.repositories import SHIPPED, ended, started, submit

from gateway.testing import GatewayFor, Live

pytestmark = [pytest.mark.clients, pytest.mark.timeout(1_800)]

TOKENIZER = """
import sys
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

words = {str(number): number for number in range(200)} | {"+": 200, "=": 201, "[UNK]": 202}
made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
made.pre_tokenizer = pre_tokenizers.Whitespace()
PreTrainedTokenizerFast(tokenizer_object=made, eos_token="[UNK]").save_pretrained(sys.argv[1])
"""

ITEMS = 20


async def finished(live: Live, name: str, **arguments: object) -> dict[str, Any]:
    """Run a shipped evaluation to its end; return its status."""
    job_id = await submit(live, name, prepare_args={"max_prompts": ITEMS, **arguments})
    while True:
        record = (await live.client.get(f"/eval/{job_id}?wait=50", timeout=60)).json()
        if record["status"] in ("completed", "failed"):
            status = record["eval_status"][name]
            assert status["status"] == "completed", status
            assert status["progress"].split("/")[0] == status["progress"].split("/")[1]
            assert status["details"]["http_errors"]["total_errors"] == 0
            return dict(status)


def program(files: Path, name: str) -> str:
    """A program of an environment that the plugin has built."""
    [found] = (files / "pythons").glob(f"*/venv/bin/{name}")
    return str(found)


async def run(*command: str, cwd: Path = SHIPPED, **environment: str) -> None:
    running = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, env={**os.environ, **environment}
    )
    assert await running.wait() == 0


async def live_lm_eval(live: Live, files: Path, model: str, task: str, *more: str) -> Any:
    """The scores of a live run of lm-eval through the gateway."""
    output = files / "live"
    tasks = str(SHIPPED / "evals/lm_harness/tasks")
    arguments = ("--tasks", task, "--limit", str(ITEMS), "--include_path", tasks)
    command = (program(files, "lm_eval"), "run", "--model", model, *arguments)
    await run(*command, "--output_path", str(output), *more, OPENAI_API_KEY="unused")
    newest = max(output.rglob("results*.json"), key=lambda file: file.stat().st_mtime)
    return json.loads(newest.read_text())["results"][task]


async def test_lm_harness_has_the_scores_of_live_runs(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await started(gateway_for, SHIPPED, folder=str(tmp_path))
    url = str(live.client.base_url).rstrip("/")
    shipped = await finished(live, "lm_harness", chat=True, tasks="sums_generate")
    args = f"model=sim,base_url={url}/v1/chat/completions"
    found = await live_lm_eval(
        live,
        tmp_path,
        "local-chat-completions",
        "sums_generate",
        *("--apply_chat_template", "--model_args", args),
    )
    assert shipped["results"]["sums_generate:exact_match"] == found["exact_match,none"]

    tokenizer = tmp_path / "tokenizer"
    [python] = (tmp_path / "pythons").glob("*/venv/bin/python")
    await run(str(python), "-c", TOKENIZER, str(tokenizer))
    for task, metric in (("sums_choice", "acc"), ("sums_generate", "exact_match")):
        shipped = await finished(live, "lm_harness", tasks=task, tokenizer=str(tokenizer))
        args = f"model=sim,base_url={url}/v1/completions,tokenizer={tokenizer},max_length=2048"
        found = await live_lm_eval(live, tmp_path, "local-completions", task, "--model_args", args)
        assert shipped["results"][f"{task}:{metric}"] == found[f"{metric},none"]


LETTERS = """
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes
from inspect_ai.solver import generate

@task
def letters():
    samples = [Sample(input=f"Say {number}.", target=word)
               for number, word in enumerate(["a", "e", "th", "w", "x"] * 4)]
    return Task(dataset=samples, solver=generate(), scorer=includes())
"""


async def test_inspect_has_the_scores_of_a_live_run(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    repository = tmp_path / "evaluations"
    shutil.copytree(SHIPPED, repository)
    place = repository / "evals/inspect"
    (place / "letters.py").write_text(LETTERS)
    live = await started(gateway_for, repository, folder=str(tmp_path))
    shipped = await finished(live, "inspect", tasks=["sums.py", "letters.py"])
    scores = shipped["results"]
    for task in ("sums", "letters"):
        found = await live_inspect(live, tmp_path, place, task)
        assert scores[f"{task}:includes:accuracy"] == found["accuracy"]["value"]
        assert scores[f"{task}:includes:stderr"] == found["stderr"]["value"]
    assert 0 < scores["letters:includes:accuracy"] < 1


async def live_inspect(live: Live, files: Path, place: Path, task: str) -> Any:
    """The metrics of a live run of inspect through the gateway."""
    logs = files / "logs" / task
    await run(
        *(program(files, "inspect"), "eval", f"{task}.py", "--model", "openai-api/gw/sim"),
        *("--max-tokens", "1024", "--temperature", "0", "--limit", str(ITEMS)),
        *("--log-dir", str(logs), "--display", "plain"),
        cwd=place,
        GW_API_KEY="unused",
        GW_BASE_URL=f"{str(live.client.base_url).rstrip('/')}/v1",
        INSPECT_LOG_FORMAT="json",
    )
    [log] = logs.glob("*.json")
    found = json.loads(log.read_text())
    assert found["status"] == "success"
    return found["results"]["scores"][0]["metrics"]


async def test_example_needs_no_package(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await started(gateway_for, SHIPPED, folder=str(tmp_path))
    record = await ended(live, await submit(live))
    assert record["status"] == "completed"
    assert not (tmp_path / "pythons").exists()
