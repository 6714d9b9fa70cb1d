"""Which field does not fit, found without a library's words."""

from typing import Annotated, Any

import msgspec
import pytest
from msgspec import UNSET, Meta, UnsetType

from gateway.config.misfit import misfit


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    url: str
    weight: Annotated[float, Meta(gt=0)] = 1.0


class Outer(msgspec.Struct):
    name: str
    inner: Inner | None = None
    several: list[Inner] = []
    marks: dict[str, int] = {}
    raw: msgspec.Raw = msgspec.Raw()
    either: str | list[Inner] = ""
    limit: int | UnsetType = UNSET
    pair: tuple[int, str] = (1, "")


@pytest.mark.parametrize(
    ("value", "name", "problem"),
    [
        ([], "", "expected a mapping"),
        ({}, "name", "missing; expected text"),
        ({"name": 1}, "name", "expected text"),
        ({"name": "", "inner": {}}, "inner.url", "missing; expected text"),
        ({"name": "", "inner": []}, "inner", "expected a mapping or null"),
        ({"name": "", "inner": {"url": "", "uri": ""}}, "inner.uri", "unknown field"),
        (
            {"raw": [1], "several": [{"url": ""}, {"url": "", "weight": 0}]},
            "several[1].weight",
            "expected a number greater than 0",
        ),
        ({"marks": {"SECRET": "x"}}, "marks[...]", "expected an integer"),
        ({"either": [{"url": 1}]}, "either[0].url", "expected text"),
        ({"either": 1}, "either", "expected text or a list"),
        ({"limit": "x"}, "limit", "expected an integer"),
        ({"pair": [1]}, "pair", "expected a list of 2 items"),
        ({"more": 1, "name": None}, "name", "expected text"),
    ],
)
def test_misfit_names_the_field_and_its_expected_type(value: Any, name: str, problem: str) -> None:
    found = misfit(value, Outer)
    assert found is not None
    assert (found.name, found.problem) == (name, problem)


def test_misfit_is_none_for_a_value_that_fits() -> None:
    assert misfit({"name": "", "raw": {"a": 1}, "more": 2}, Outer) is None
    assert misfit({"name": "", "limit": "7"}, Outer, strict=False) is None
