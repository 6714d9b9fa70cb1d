"""What others are told of models that cannot be loaded."""

from collections.abc import Iterable, Mapping

from gateway_plugins.runtime.loading.failures import FLAGS, LASTING
from gateway_plugins.runtime.memory.known import Memory

NEVER = float("inf")


def failures(memory: Memory, models: Iterable[str]) -> Mapping[str, str]:
    """Return why models could not be loaded, by their names."""
    known = map(memory.of, models)
    return {
        one.model: f"the model could not be loaded ({one.reason})"
        for one in known
        if one.reason is not None
    }


def lasting(memory: Memory, models: Iterable[str]) -> Mapping[str, tuple[str, float]]:
    """Return the same of those for which waiting is in vain, and since when (Unix seconds).

    Later work is another try, unless that would fail alike.
    """
    return {
        model: (text, memory.failed_at(model) if is_renewed(memory, model) else NEVER)
        for model, text in failures(memory, models).items()
        if memory.of(model).reason in LASTING
    }


def is_renewed(memory: Memory, model: str) -> bool:
    """Whether a new submission lets a model that has failed be tried again."""
    found = {reason for reason, flag in FLAGS.items() if flag == "model_failure"}
    return memory.of(model).reason in found
