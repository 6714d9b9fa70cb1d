"""Tasks of inspect that ask the model once for each sample, and score without a model.

inspect runs twice, with a model that keeps each request, and then returns the responses. A task
whose later requests depend on responses, such as one with tools, needs a live run.
"""

import hashlib
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inspect_ai import eval as run_tasks
from inspect_ai.model import (
    ChatMessage,
    GenerateConfig,
    ModelOutput,
    ModelUsage,
    get_model,
    model_output_from_openai,
)

Object = dict[str, Any]

Answer = Callable[[Object], Object]

NAMES = {
    "max_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
    "stop_seqs": "stop",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
}
"""Parameters of inspect, and their names in a request."""


def prepare_requests(
    model_name: str,
    *,
    tasks: str | list[str] = "sums.py",
    max_prompts: int | None = None,
    max_tokens: int = 1024,
    temperature: float = 0.0,
    task_args: Object | None = None,
) -> Object:
    """Return the requests of the tasks: files in this folder, or names that inspect knows."""
    asked = {
        "tasks": [tasks] if isinstance(tasks, str) else tasks,
        "limit": max_prompts,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "task_args": task_args or {},
    }
    requests: list[Object] = []

    def keep(body: Object) -> Object:
        requests.append({**body, "_digest": _digest(body)})
        return {}

    _run(asked, keep)
    return {"requests": requests, "metadata": {"inspect": asked}}


def score_results(requests: list[Object], responses: list[Object], metadata: Object) -> Object:
    """Return the scores of the tasks: `{task}:{metric}`, and `avg` of the first of each task."""
    answers: dict[str, list[Object]] = defaultdict(list)
    for request, response in zip(requests, responses, strict=True):
        answers[request["_digest"]].append(response)

    metrics: dict[str, float] = {}
    firsts = []
    for log in _run(metadata["inspect"], lambda body: answers[_digest(body)].pop(0)):
        found = {
            f"{log.eval.task}:{score.name}:{name}": metric.value
            for score in log.results.scores
            for name, metric in score.metrics.items()
        }
        firsts += list(found.values())[:1]
        metrics |= found
    metrics["avg"] = metrics["score"] = sum(firsts) / len(firsts)
    return {"metrics": metrics, "details": {}}


def _run(asked: Object, answer: Answer) -> Any:
    async def called(
        messages: list[ChatMessage], _: Any, __: Any, config: GenerateConfig
    ) -> ModelOutput:
        response = answer(_body(messages, config))
        output = ModelOutput.from_content("recorded", "")
        if "choices" in response:
            output = await model_output_from_openai(response)
        if output.usage is None:  # else inspect counts, with a tokenizer that it downloads
            output.usage = ModelUsage()
        return output

    model = get_model("mockllm/model", custom_outputs=called, memoize=False)
    here = Path(__file__).parent.relative_to(Path.cwd())  # inspect takes relative paths only
    tasks = [str(here / one) if one.endswith(".py") else one for one in asked["tasks"]]
    with tempfile.TemporaryDirectory() as logs:
        found = run_tasks(
            tasks,
            model=model,
            limit=asked["limit"],
            task_args=asked["task_args"],
            max_tokens=asked["max_tokens"],
            temperature=asked["temperature"],
            log_dir=logs,
            display="none",
        )
    bad = [log.error for log in found if log.status != "success"]
    if bad:
        raise RuntimeError(f"inspect could not run a task: {bad[0] and bad[0].message}")
    return found


def _body(messages: list[ChatMessage], config: GenerateConfig) -> Object:
    given = config.model_dump(exclude_none=True)
    body = {name: given[own] for own, name in NAMES.items() if own in given}
    return {"messages": [{"role": one.role, "content": one.text} for one in messages], **body}


def _digest(body: Object) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
