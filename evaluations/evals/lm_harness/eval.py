"""Tasks of lm-evaluation-harness: its own code makes the requests and reads the responses.

The harness runs twice. In `prepare_requests` its client keeps each request in place of sending it;
in `score_results` the client returns the responses. So a score is that of a live run with
`--model local-completions`, or with `local-chat-completions` if `chat` is true.
"""

import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lm_eval.evaluator import simple_evaluate
from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI
from lm_eval.tasks import TaskManager

Object = dict[str, Any]

OWN_TASKS = Path(__file__).with_name("tasks")

LOWEST = -1e9
"""Log-likelihood of what the engine did not answer."""


def prepare_requests(
    model_name: str,
    *,
    tasks: str | list[str] = "sums_generate",
    max_prompts: int | None = None,
    num_fewshot: int | None = None,
    chat: bool = False,
    tokenizer: str | None = None,
    max_length: int = 2048,
    include_path: str | None = None,
) -> Object:
    """Return the requests of the tasks; `max_prompts` is for each of them.

    `tokenizer` is a name at the hub or a folder, by default the model. With `chat` the engine's
    chat template is used, which is for tasks that generate, and no tokenizer is needed.
    """
    asked = {
        "model": model_name,
        "tasks": [tasks] if isinstance(tasks, str) else tasks,
        "limit": max_prompts,
        "num_fewshot": num_fewshot,
        "chat": chat,
        "tokenizer": tokenizer or model_name,
        "max_length": max_length,
        "include_path": include_path,
    }
    requests: dict[str, Object] = {}

    def keep(payload: Object) -> Object:
        requests[_digest(payload)] = payload
        return {}

    _evaluate(asked, keep)
    return {
        "requests": [{**_without_model(one), "_digest": key} for key, one in requests.items()],
        "metadata": {"harness": asked},
    }


def score_results(requests: list[Object], responses: list[Object], metadata: Object) -> Object:
    """Return the scores of the tasks: `{task}:{metric}`, and `avg`, that of their first metrics."""
    answers = {
        request["_digest"]: response for request, response in zip(requests, responses, strict=True)
    }
    results = _evaluate(metadata["harness"], lambda payload: answers[_digest(payload)])
    metrics: dict[str, float] = {}
    firsts = []
    for task, found in results["results"].items():
        named = {name.partition(",")[0]: value for name, value in found.items()}
        numbers = {name: value for name, value in named.items() if isinstance(value, int | float)}
        scores = {name: one for name, one in numbers.items() if not name.endswith("_stderr")}
        scores.pop("sample_len", None)
        firsts += list(scores.values())[:1]
        metrics |= {f"{task}:{name}": value for name, value in scores.items()}
    metrics["avg"] = metrics["score"] = sum(firsts) / len(firsts)
    return {"metrics": metrics, "details": {"samples": results["n-samples"]}}


def _evaluate(asked: Object, call: Callable[[Object], Object]) -> Object:
    """Run the harness with a client that gives each request to `call`."""
    client = _client(LocalChatCompletion if asked["chat"] else LocalCompletionsAPI, call)
    more = {} if asked["chat"] else {"tokenizer": asked["tokenizer"]}
    model = client(
        model=asked["model"],
        base_url="http://127.0.0.1/",
        tokenizer_backend=None if asked["chat"] else "huggingface",
        max_length=asked["max_length"],
        num_concurrent=1,
        batch_size=1,
        **more,
    )
    paths = [str(OWN_TASKS), *([asked["include_path"]] if asked["include_path"] else [])]
    results = simple_evaluate(
        model,
        tasks=asked["tasks"],
        limit=asked["limit"],
        num_fewshot=asked["num_fewshot"],
        apply_chat_template=asked["chat"],
        task_manager=TaskManager(include_path=paths),
        bootstrap_iters=0,
        log_samples=False,
    )
    return dict(results or {})


def _client(base: Any, call: Callable[[Object], Object]) -> Any:
    class Client(base):
        def model_call(
            self, messages: Any, *, generate: bool = True, gen_kwargs: Any = None, **more: Any
        ) -> Object:
            return call(
                self._create_payload(
                    self.create_message(messages),
                    generate=generate,
                    gen_kwargs=copy.deepcopy(gen_kwargs),
                    seed=self._seed,
                    eos=self.eos_string,
                    **more,
                )
            )

        def parse_logprobs(self, outputs: Any, **more: Any) -> Any:
            if _are_answers(outputs):
                return super().parse_logprobs(outputs, **more)
            return [(LOWEST, False) for _ in more["ctxlens"]]

        def parse_generations(self, outputs: Any, **more: Any) -> Any:
            return super().parse_generations(outputs, **more) if _are_answers(outputs) else [""]

    return Client


def _are_answers(outputs: Any) -> bool:
    """Whether the engine has answered; the harness passes one response, or a list of it."""
    given = outputs if isinstance(outputs, list) else [outputs]
    return all("choices" in one for one in given)


def _without_model(payload: Object) -> Object:
    return {name: value for name, value in payload.items() if name != "model"}


def _digest(payload: Object) -> str:
    text = json.dumps(payload, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
