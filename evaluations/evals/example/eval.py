"""An evaluation to copy: sums of two numbers, scored by the last number of each response."""

import re
from typing import Any

Object = dict[str, Any]


def prepare_requests(model_name: str, max_prompts: int = 20, seed: int = 7) -> Object:
    """Return the requests: bodies of OpenAI's API without `model`.

    Members that begin with `_` are the evaluation's own, and come back to `score_results`.
    """
    pairs = [(seed * number % 89, number * number % 97) for number in range(max_prompts)]
    requests = [
        {
            "messages": [{"role": "user", "content": f"{a} + {b} = ? Answer with the number."}],
            "max_tokens": 16,
            "temperature": 0,
            "_expected": a + b,
        }
        for a, b in pairs
    ]
    return {"requests": requests, "metadata": {"model_name": model_name}}


def score_results(requests: list[Object], responses: list[Object], metadata: Object) -> Object:
    """Return the scores. A response is the engine's whole body, or has an `error`."""
    examples = [
        {
            "prediction": (prediction := _number(response)),
            "reference": request["_expected"],
            "is_correct": prediction == request["_expected"],
        }
        for request, response in zip(requests, responses, strict=True)
    ]
    correct = sum(example["is_correct"] for example in examples)
    return {
        "metrics": {"accuracy": correct / len(examples)},
        "details": {"sums": {"per_example": examples}},
    }


def _number(response: Object) -> int | None:
    if "error" in response:
        return None
    found = re.findall(r"-?\d+", response["choices"][0]["message"]["content"] or "")
    return int(found[-1]) if found else None
