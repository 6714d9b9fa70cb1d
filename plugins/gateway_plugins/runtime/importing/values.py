"""Values of the orchestrator's variables, as the configuration has them.

Each function converts a text that is not empty, and raises ValueError with what was expected,
without the value.
"""

import math
import shlex
from collections.abc import Callable
from typing import Any

import msgspec

from gateway_plugins.runtime.options import Count, Name, Port, Positive, Seconds

Value = str | int | float | list[str]
Read = Callable[[str], Value]

DAY = 86_400
MAX_DAYS = 36_500

SECRET_ARGUMENTS = frozenset({"--api-key", "--hf-token"})


def seconds(text: str) -> float:
    return _number(text, Seconds, "a number of seconds from 0 on")


def positive_seconds(text: str) -> float:
    return _number(text, Positive, "a number of seconds greater than 0")


def tokens(text: str) -> float:
    found = _number(text, Positive, "a number of at least 1")
    if found < 1:
        raise ValueError("expected a number of at least 1: a switch costs one token")
    return found


def seconds_per_token(text: str) -> float:
    """Convert tokens per second; 0.000555 is 1801.8."""
    rate = _number(text, Positive, "a number of tokens per second greater than 0")
    return float(f"{min(max(1 / rate, 1e-6), 1e12):.6g}")


def check_interval(text: str) -> float:
    """Convert seconds as the orchestrator bounds them, and as the plugin `auth` does."""
    return min(max(0.5, seconds(text)), 3_600.0)


def days(text: str) -> int:
    """Convert seconds to days, rounded up."""
    found = math.ceil(positive_seconds(text) / DAY)
    if found > MAX_DAYS:
        raise ValueError(f"expected at most {MAX_DAYS * DAY} seconds")
    return found


def count(text: str) -> int:
    return int(_number(text, Count, "an integer greater than 0"))


def port(text: str) -> int:
    return int(_number(text, Port, "a port from 1 to 65535"))


def _number(text: str, wanted: Any, expected: str) -> float:
    try:
        found = msgspec.convert(text, wanted, strict=False)
    except msgspec.ValidationError:
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"expected {expected}")
    return found if isinstance(found, int) else float(found)


def name(text: str) -> str:
    try:
        return str(msgspec.convert(text, Name))
    except msgspec.ValidationError:
        raise ValueError("expected at most 200 characters") from None


def engine(text: str) -> str:
    if text not in ("vllm", "sglang"):
        raise ValueError("expected vllm or sglang")
    return text


def arguments(text: str) -> list[str]:
    """Split as a shell does. Secrets are rejected: they would be shown by `ps`, too."""
    try:
        found = shlex.split(text)
    except ValueError:
        raise ValueError("expected arguments as a shell splits them: a quote is open") from None
    for one in found:
        option = one.partition("=")[0].replace("_", "-")
        if option in SECRET_ARGUMENTS:
            raise ValueError(
                f"{option} is a secret, which no configuration should have; take it out, and give "
                "the engine a variable of the environment (HF_TOKEN is passed on)"
            )
    return found


def folder(text: str) -> str:
    if ":" in text:
        raise ValueError("expected the path of a folder, without a colon")
    return text


def secret(_: str) -> str:
    """Keep nothing of the value but that it is set."""
    return ""


def text(text: str) -> str:
    return text
