"""The sampling parameters of a request, as attributes."""

from collections.abc import Mapping

Value = str | bool | int | float | tuple[str, ...]
"""A value of an attribute."""

PARAMETERS: Mapping[str, str] = {
    "max_tokens": "gen_ai.request.max_tokens",
    "max_completion_tokens": "gen_ai.request.max_tokens",
    "max_output_tokens": "gen_ai.request.max_tokens",
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "seed": "gen_ai.request.seed",
    "n": "gen_ai.request.choice.count",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "reasoning_effort": "gen_ai.request.reasoning.level",
}
"""Fields of requests, and the attributes that they are."""

FLOATS = frozenset(("temperature", "top_p", "frequency_penalty", "presence_penalty"))
TEXTS = frozenset(("reasoning_effort",))


def parameters_of(told: tuple[object, ...]) -> Mapping[str, Value]:
    """Return the attributes of what a request says: a name and a value by turns.

    A value in bytes is a number as the request has it.
    """
    found: dict[str, Value] = {}
    for name, value in zip(told[::2], told[1::2], strict=True):
        assert isinstance(name, str)
        read = _number(value) if isinstance(value, bytes) else value
        if (valid := _valid(name, read)) is not None:
            found[PARAMETERS[name]] = valid
    if found.get("gen_ai.request.choice.count") == 1:
        del found["gen_ai.request.choice.count"]
    return found


def _number(text: bytes) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _valid(name: str, told: object) -> Value | None:
    if name in TEXTS:
        return told if isinstance(told, str) else None
    if isinstance(told, bool) or not isinstance(told, int | float):
        return None
    if name in FLOATS:
        return float(told)
    return told if isinstance(told, int) and abs(told) < 1 << 63 else None
