"""What the adapter to lm-eval makes of responses, with a stand-in for the harness.

test_scores_vllm.py runs the harness itself.
"""

import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from support.evaluations.repositories import SHIPPED

ANSWER = {"choices": [{"index": 0, "text": "52", "likelihood": -3.5}]}


class Harness:
    """Reads responses as the clients of lm-eval do."""

    def parse_logprobs(self, outputs: Any, ctxlens: list[int]) -> list[tuple[float, bool]]:
        return [(one["choices"][0]["likelihood"], True) for one in outputs]

    def parse_generations(self, outputs: Any) -> list[str]:
        return [outputs["choices"][0]["text"]]


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Any:
    names = {
        "lm_eval": (),
        "lm_eval.evaluator": ("simple_evaluate",),
        "lm_eval.models": (),
        "lm_eval.models.openai_completions": ("LocalChatCompletion", "LocalCompletionsAPI"),
        "lm_eval.tasks": ("TaskManager",),
    }
    for name, contents in names.items():
        module = ModuleType(name)
        for one in contents:
            setattr(module, one, Harness)
        monkeypatch.setitem(sys.modules, name, module)
    spec = importlib.util.spec_from_file_location("adapter", SHIPPED / "evals/lm_harness/eval.py")
    assert spec is not None
    assert spec.loader is not None
    adapter = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(adapter)
    make: Callable[..., Any] = adapter._client
    return make(Harness, lambda body: body)()


def test_log_likelihoods_are_those_of_the_response(client: Any) -> None:
    # The harness passes a list for log-likelihoods, and one response for a text.
    assert client.parse_logprobs(outputs=[ANSWER], ctxlens=[1]) == [(-3.5, True)]
    assert client.parse_generations(outputs=ANSWER) == ["52"]


def test_items_without_a_response_count_as_wrong(client: Any) -> None:
    failed = {"error": "missing"}
    assert client.parse_logprobs(outputs=[failed], ctxlens=[1]) == [(-1e9, False)]
    assert client.parse_generations(outputs=failed) == [""]
