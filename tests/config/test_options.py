"""What a plugin is told of its options: the types they may have, and the words for mistakes."""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta
from support.gateways.config_files import problems, read

from gateway.config import (
    FieldError,
    Node,
    Note,
    PluginEntry,
    convert,
)

pytestmark = pytest.mark.usefixtures("empty_folder")


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    path: str | None = None
    limit: Annotated[int, Meta(gt=0), Note(unit="calls")] = 1
    key: str = ""

    def __post_init__(self) -> None:
        if self.key and self.path:
            raise ValueError("a key and a path are one too many")


def configured(text: str, environ: Mapping[str, str] = {}) -> tuple[Options | None, list[str]]:
    found: list[str] = []
    return read(text, environ).plugins[-1].options_as(Options, found), found


def test_config_lists_plugins_in_file_order() -> None:
    text = """
plugins:
  - sessions
  - access_log: {path: x}
  - ./my.py:
  - package.module:Class:
      a: [1, {b: null}]
"""
    entries = read(text).plugins
    assert [(entry.name, entry.options, entry.source) for entry in entries] == [
        ("sessions", {}, "gateway.yaml:3"),
        ("access_log", {"path": "x"}, "gateway.yaml:4"),
        ("./my.py", {}, "gateway.yaml:5"),
        ("package.module:Class", {"a": [1, {"b": None}]}, "gateway.yaml:6"),
    ]


def test_config_rejects_invalid_plugin_entries() -> None:
    named = "expected a plugin's name, or its name over its indented options"
    assert problems("plugins:\n - a:\n   b: 1\n - [a]\n - {}\n - c: SECRET\n - ''") == [
        f"gateway.yaml:2: plugins[0]: {named}, got a mapping",
        f"gateway.yaml:4: plugins[1]: {named}, got a list",
        f"gateway.yaml:5: plugins[2]: {named}, got a mapping",
        "gateway.yaml:6: plugins[3].options: expected a mapping, got text (not shown)",
        'gateway.yaml:7: plugins[4].name: expected text that is not empty, got ""',
    ]


def test_plugin_options_are_converted_to_its_struct() -> None:
    assert configured("plugins: [a: {path: x, limit: 3}]") == (Options(path="x", limit=3), [])
    assert configured("plugins: [a]") == (Options(), [])
    assert configured("plugins: [a: {limit: '${N}'}]", {"N": "7"}) == (Options(limit=7), [])
    found: list[str] = []
    assert PluginEntry(name="a", options={"limit": 2}).options_as(Options, found) == Options(
        limit=2
    )


def test_plugin_option_errors_name_line_and_field() -> None:
    text = "plugins:\n  - ./a.py:\n      limit: SECRET\n      pth: x\n      zz: 1\n"
    options, said = configured(text)
    assert options is None
    assert [line.replace('plugins."./a.py".', "") for line in said] == [
        "gateway.yaml:3: limit: expected an integer greater than 0 (calls), got text (not shown)",
        'gateway.yaml:4: pth: unknown option; did you mean "path"?',
        "gateway.yaml:5: zz: unknown option; the options are path, limit, key",
    ]
    assert configured("plugins: [a: {key: k, path: p}]")[1] == [
        "gateway.yaml:1: plugins.a: a key and a path are one too many"
    ]
    found: list[str] = []
    assert PluginEntry(name="a", options={"pth": 2}).options_as(Options, found) is None
    assert found == ['plugins.a.pth: unknown option; did you mean "path"?']


def test_config_repr_hides_secrets() -> None:
    text = "workers: [{url: http://h, headers: {A: SECRET}}]\nplugins: [a: {key: SECRET}]"
    assert "SECRET" not in repr(read(text))


class Inner(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    some_name: int


def _even(number: int) -> None:
    if number % 2:
        raise ValueError("expected an even number")


def _apart(numbers: list[int]) -> None:
    if len(set(numbers)) < len(numbers):
        raise FieldError("is there twice", len(numbers) - 1)


class Wide(msgspec.Struct, frozen=True, kw_only=True):
    inner: Inner | None = None
    many: dict[str, list[Inner]] = {}
    either: int | list[int] | Inner = 0
    pair: tuple[int, str] = (0, "")
    bounded: Annotated[tuple[int, ...], Meta(min_length=1, max_length=2)] = (1,)
    mode: Literal["one", 2] = "one"
    even: Annotated[int, Note(check=_even)] | None = None
    apart: Annotated[list[int], Note(check=_apart)] = []
    keyed: dict[int, float] = {}
    within: Annotated[float, Meta(ge=0, lt=1)] = 0.5
    words: frozenset[str] = frozenset()
    anything: object = None


@pytest.mark.parametrize(
    ("field", "value", "made"),
    [
        ("inner", {"some-name": 1}, Inner(some_name=1)),
        ("many", {"a": [{"some-name": 1}]}, {"a": [Inner(some_name=1)]}),
        ("either", 3, 3),
        ("either", [3], [3]),
        ("either", {"some-name": 3}, Inner(some_name=3)),
        ("pair", [1, "x"], (1, "x")),
        ("mode", 2, 2),
        ("even", 2, 2),
        ("even", None, None),
        ("keyed", {"1": 2}, {1: 2.0}),
        ("words", ["a"], frozenset("a")),
        ("anything", {"a": [1]}, {"a": [1]}),
    ],
)
def test_options_convert_each_supported_type(field: str, value: object, made: object) -> None:
    found: list[str] = []
    wide = convert(Node.of({field: value}, "here"), Wide, problems=found)
    assert (getattr(wide, field), found) == (made, [])


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("inner", {}, "inner.some-name: missing; expected an integer"),
        ("inner", {"some_name": 1}, 'inner.some_name: unknown field; did you mean "some-name"?'),
        ("inner", 1, "inner: expected a mapping or null, got 1"),
        ("many", {"a b": [5]}, 'many."a b"[0]: expected a mapping, got 5'),
        ("either", "x", 'either: expected an integer or a list or a mapping, got "x"'),
        ("either", ["x"], 'either[0]: expected an integer, got "x"'),
        ("pair", [1], "pair: expected a list of 2 items, got a list"),
        ("bounded", [], "bounded: expected a list with a length of at least 1 and with a length"),
        ("mode", "two", 'mode: expected "one" or 2, got "two"'),
        ("even", 1, "even: expected an even number, got 1"),
        ("apart", [1, 1], "apart[1]: is there twice"),
        ("keyed", {"x": 1}, 'keyed: expected an integer, got "x"'),
        ("within", 1, "within: expected a number of at least 0 and less than 1, got 1"),
        (
            "within",
            float("nan"),
            "within: expected a number of at least 0 and less than 1, got nan",
        ),
        ("words", [None], "words[0]: expected text, got null"),
    ],
)
def test_option_errors_describe_the_expected_type(field: str, value: object, problem: str) -> None:
    found: list[str] = []
    assert convert(Node.of({field: value}, "here"), Wide, problems=found) is None
    assert found[0].startswith(f"here: {problem}")
