"""Former names of fields and options: they work, warn, and contradict the present names."""

import ast
import json
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from typing import Annotated, Any, ClassVar

import msgspec
import pytest
from config.test_config import table
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta
from support.gateways.config_files import overridden, problems, read
from support.paths import ROOT

from gateway.config import Config, Node, PluginEntry, convert, former_names, load
from gateway.config.hints import container_kind, fields_of
from gateway.config.renames import with_new_names
from gateway.config.sources.environment import former_paths, variables
from gateway.plugins.discovery import GROUP, find

pytestmark = pytest.mark.usefixtures("empty_folder")

Path = tuple[str, ...]

OTHER_VALUES: dict[Path, object] = {
    ("limits",): {"max_calls": 7},
    ("limits", "max_calls"): 7,
    ("limits", "max_body_bytes"): 7,
    ("limits", "max_header_bytes"): 7,
    ("limits", "max_headers"): 7,
    ("limits", "max_event_bytes"): 7,
    ("db_path",): "other.db",
    ("persist_workers",): True,
    ("store",): "memory",
    ("failover", "workers"): 7,
    ("probes", "models"): 7.0,
}
"""A value other than the default for each former path."""

FORMER = former_paths(Config)


def nested(path: Path, value: object) -> dict[str, Any]:
    return {path[0]: nested(path[1:], value) if path[1:] else value}


def at(config: object, path: Path) -> object:
    for name in path:
        config = getattr(config, name)
    return config


def expected(path: Path) -> object:
    value = OTHER_VALUES[path]
    return ":memory:" if path == ("store",) else value


def in_file(path: Path) -> str:
    """A file that sets the former name in its second line."""
    return "host: h\n" + json.dumps(nested(path, OTHER_VALUES[path]))[1:-1]


def test_each_former_path_is_tested() -> None:
    assert OTHER_VALUES.keys() == FORMER.keys()


@pytest.mark.parametrize("path", FORMER, ids=".".join)
def test_former_field_in_a_file_works_and_warns_with_its_line(path: Path) -> None:
    now, former = FORMER[path]
    config = read(in_file(path))
    found = at(config, now)
    if path == ("limits",):
        found = {"max_calls": at(found, ("max_calls",))}
    assert found == expected(path)
    [warning] = config.warnings
    section, name = ("", path[0]) if path[0] in former_names(Config) else (path[0] + ": ", path[1])
    assert warning.startswith(f"gateway.yaml:2: {section}`{name}` is now called `{former.now}`")
    assert warning.endswith("; the old name works until 0.2")


@pytest.mark.parametrize("path", FORMER, ids=".".join)
def test_former_and_present_field_in_a_file_are_refused_with_both_lines(path: Path) -> None:
    now, former = FORMER[path]
    if path[0] == "limits":
        text = in_file(path) + "\nserver_limits:\n  max_calls: 1"
    elif path[0] in former_names(Config):
        text = in_file(path) + "\nstorage:\n  " + f"{now[1]}: {json.dumps(expected(path))}"
    else:
        text = f"host: h\n{path[0]}:\n  {path[1]}: 7\n  {now[1]}: 7"
    lines = (3, 4) if path[0] in ("failover", "probes") else (2, 3 if path[0] == "limits" else 4)
    [problem] = problems(text)
    assert problem.startswith(f"gateway.yaml:{lines[0]}: ")
    assert f"is the old name of `{former.now}`, which gateway.yaml:{lines[1]} sets" in problem


@pytest.mark.parametrize("path", [path for path in FORMER if path != ("limits",)], ids=".".join)
def test_former_variable_works_warns_and_contradicts_the_present_one(path: Path) -> None:
    now = FORMER[path][0]
    old = "GATEWAY_" + "__".join(path).upper()
    new = next(name for name, known in variables().items() if known == now)
    environ = {old: str(OTHER_VALUES[path]).lower()}
    config = load(environ=environ)
    assert at(config, now) == expected(path)
    [warning] = config.warnings
    assert warning.startswith(f"{old} is now called {new}")
    assert warning.endswith("; the old name works until 0.2")
    assert problems("", {**environ, new: "1"}) == [
        f"{old}: is the old name of {new}, which is set; set only that"
    ]


def test_variable_of_a_section_alone_is_ignored_whichever_name_it_has() -> None:
    for name in ("GATEWAY_LIMITS", "GATEWAY_SERVER_LIMITS", "GATEWAY_TIMEOUTS"):
        assert load(environ={name: "x"}) == load()


def test_misspelt_former_variable_is_reported_with_the_present_name() -> None:
    assert problems("", {"GATEWAY_DBPATH": "d"}) == [
        'GATEWAY_DBPATH: unknown variable; did you mean "GATEWAY_STORAGE__PATH"?'
    ]


def test_former_option_of_the_command_line_works_and_warns() -> None:
    config = load(overrides={"db_path": "d"})
    assert (config.storage.path, config.warnings) == (
        "d",
        ("--db-path is now called --storage-path; the old name works until 0.2",),
    )
    memory = load(overrides={"store": "Memory", "limits": {"max_calls": 5}})
    assert (memory.storage.path, memory.server_limits.max_calls) == (":memory:", 5)
    assert overridden(**{"db_path": "d", "storage.path": "e"}) == [
        "--db-path: is the old name of --storage-path, which is set; set only that"
    ]
    assert load(overrides={"failover": {"workers": 7}}).failover.max_workers == 7


def test_store_sets_the_path_of_the_database() -> None:
    assert read("store: memory\ndb_path: d").storage.path == ":memory:"
    named = read("db_path: d\nstore: SQLite\nstorage: {durability: power}")
    assert (named.storage.path, named.storage.durability) == ("d", "power")
    assert named.warnings[1] == (
        "gateway.yaml:2: `store` is now called `storage.path`; "
        "leave `store` out, this value sets nothing"
    )
    assert problems("store: disk") == [
        'gateway.yaml:1: store: expected "memory" or "sqlite", got "disk"'
    ]
    assert problems("store: [1]")[0].endswith("got a list")
    assert problems("", {"GATEWAY_STORE": "disk"})[0].startswith("GATEWAY_STORE: expected ")


@pytest.mark.parametrize("written", ["store: memory", "storage: {path: ':memory:'}"])
@pytest.mark.parametrize(
    ("environ", "overrides"),
    [
        ({"GATEWAY_STORE": "sqlite"}, {}),
        ({"RLLM_GATEWAY_STORE": "SQLite"}, {}),
        ({}, {"store": "sqlite"}),
        ({"GATEWAY_STORE": "memory"}, {"store": "sqlite"}),
    ],
)
def test_store_of_a_later_source_takes_the_database_out_of_memory(
    written: str, environ: dict[str, str], overrides: dict[str, str]
) -> None:
    assert read(written, environ, **overrides).storage.path == "gateway.db"
    assert read("db_path: d", environ, **overrides).storage.path == "d"


def test_later_source_wins_whichever_name_it_uses() -> None:
    assert load(environ={"GATEWAY_DB_PATH": "e"}, overrides={"storage.path": "c"}).storage.path == (
        "c"
    )
    assert read("storage: {path: f}", {"GATEWAY_DB_PATH": "e"}).storage.path == "e"
    text = "limits: {max_calls: 1, max_headers: 2}"
    limits = read(text, {"GATEWAY_SERVER_LIMITS__MAX_CALLS": "3"}).server_limits
    assert (limits.max_calls, limits.max_headers) == (3, 2)


def test_variables_of_rllm_stay_without_a_warning() -> None:
    theirs = {"RLLM_GATEWAY_DB_PATH": "d", "RLLM_GATEWAY_STORE": "sqlite"}
    config = load(environ=theirs)
    assert (config.storage.path, config.warnings) == ("d", ())
    assert load(environ={**theirs, "GATEWAY_STORAGE__PATH": "e"}).storage.path == "e"


def test_mistake_in_a_former_field_is_reported_at_its_line() -> None:
    assert problems("host: h\ndb_path: ''")[0].startswith("gateway.yaml:2: storage.path: expected")
    assert problems("limits: {max_call: 1}") == [
        'gateway.yaml:1: server_limits.max_call: unknown field; did you mean "max_calls"?'
    ]
    assert problems("db_path: d\nstorage: 5") == [
        "gateway.yaml:2: storage: expected a mapping, got 5"
    ]


# the options of plugins


def plugin_renames() -> Iterator[tuple[str, Any, Path, Path]]:
    """(plugin, its Config, former path, present path) of each renamed option."""
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        _, factory = find(PluginEntry(name=point.name))
        for old, (now, _) in former_paths(getattr(factory, "Config", msgspec.Struct)).items():
            yield point.name, factory.Config, old, now


PLUGIN_RENAMES = list(plugin_renames())
UNTIL = "the old name works until 0.2"
IDS = [f"{name}.{'.'.join(old)}" for name, _, old, _ in PLUGIN_RENAMES]


def options_in(name: str, options: Mapping[str, Any]) -> PluginEntry:
    """The entry of a plugin whose options begin in the third line, one line each."""
    text = f"plugins:\n - {name}:\n" + "".join(
        f"    {key}: {json.dumps(value)}\n" for key, value in options.items()
    )
    return read(text).plugins[0]


@pytest.mark.parametrize(("name", "config", "old", "now"), PLUGIN_RENAMES, ids=IDS)
def test_former_option_of_a_plugin_works_and_warns(
    name: str, config: Any, old: Path, now: Path
) -> None:
    value = at(config(), now)
    found: list[str] = []
    warnings: list[str] = []
    entry = options_in(name, nested(old, value))
    assert at(entry.options_as(config, found, warnings), now) == value
    section = ".".join(("plugins", name, *old[:-1]))
    assert (found, warnings) == (
        [],
        [f"gateway.yaml:3: {section}: `{old[-1]}` is now called `{now[-1]}`; {UNTIL}"],
    )


@pytest.mark.parametrize(("name", "config", "old", "now"), PLUGIN_RENAMES, ids=IDS)
def test_former_and_present_option_of_a_plugin_are_refused(
    name: str, config: Any, old: Path, now: Path
) -> None:
    value = at(config(), now)
    both = {old[-1]: value, now[-1]: value}
    entry = options_in(name, {old[0]: both} if len(old) > 1 else both)
    found: list[str] = []
    entry.options_as(config, found)
    lines = (3, 3) if len(old) > 1 else (3, 4)
    [problem] = found
    assert problem.startswith(f"gateway.yaml:{lines[0]}: ")
    assert f"`{now[-1]}`, which gateway.yaml:{lines[1]} sets" in problem


class Inner(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    renamed_until: ClassVar[Mapping[str, Mapping[str, str]]] = {"2.0": {"size": "max_size"}}

    max_size: Annotated[int, Meta(gt=0)] = 1


class Outer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    renamed_until: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "2.0": {"wait": "max_wait", "size": "inner.max_size"},
        "3.0": {"each": "many"},
    }

    max_wait: float = 0.0
    inner: Inner | None = None
    many: tuple[Inner, ...] = ()
    named: dict[str, Inner] = {}


def converted(value: object) -> tuple[Outer | None, list[str], list[str]]:
    found: list[str] = []
    warnings: list[str] = []
    node = with_new_names(Node.of(value, "here"), Outer, found, warnings)
    return convert(node, Outer, problems=found), found, warnings


def test_options_of_others_are_renamed_in_lists_mappings_and_other_structs() -> None:
    made, found, warnings = converted(
        {"wait": 2, "size": 3, "each": [{"size": 4}], "named": {"a": {"size": 5}}}
    )
    assert made == Outer(
        max_wait=2.0,
        inner=Inner(max_size=3),
        many=(Inner(max_size=4),),
        named={"a": Inner(max_size=5)},
    )
    assert not found
    assert warnings == [
        "here: `wait` is now called `max_wait`; the old name works until 2.0",
        "here: `size` is now called `inner.max_size`; the old name works until 2.0",
        "here: `each` is now called `many`; the old name works until 3.0",
        "here: many[0]: `size` is now called `max_size`; the old name works until 2.0",
        "here: named.a: `size` is now called `max_size`; the old name works until 2.0",
    ]
    _, found, _ = converted({"size": 3, "inner": {"max_size": 4}})
    assert found == [
        "here: `size` is the old name of `inner.max_size`, which here sets; write only that"
    ]


NAMES = ["wait", "size", "each", "max_wait", "inner", "many", "named", "max_size", "other"]
TREES = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5)
    ),
)


@given(st.dictionaries(st.sampled_from(NAMES), TREES))
def test_renaming_is_idempotent_and_leaves_no_former_name(tree: dict[str, object]) -> None:
    found: list[str] = []
    once = with_new_names(Node.of(tree, "here"), Outer, found, [])
    again: list[str] = []
    assert with_new_names(once, Outer, again, again) == once
    assert again == []
    assert isinstance(once.value, dict)
    assert not once.value.keys() & former_names(Outer).keys()


@given(st.dictionaries(st.sampled_from(NAMES[3:]), st.integers() | st.none()))
def test_renaming_changes_nothing_without_former_names(tree: dict[str, object]) -> None:
    found: list[str] = []
    node = Node.of(tree, "here")
    assert with_new_names(node, Outer, found, found) == node
    assert found == []


CONFIG_NAMES = [*Config.__struct_fields__, *former_names(Config), "max_calls", "path", "workers"]


@given(
    st.recursive(
        st.none() | st.integers() | st.sampled_from(["memory", "sqlite", "x"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(CONFIG_NAMES), inner, max_size=6)
        ),
    )
)
def test_renaming_a_configuration_never_raises(tree: object) -> None:
    found: list[str] = []
    warnings: list[str] = []
    node = with_new_names(Node.of(tree, "here"), Config, found, warnings)
    assert with_new_names(node, Config, found, warnings) == node


# messages and the manual


def test_no_message_names_a_former_field() -> None:
    """A user who reads such a message would write the former name."""
    names = "|".join(re.escape(".".join(path)) for path in FORMER if len(path) > 1)
    name = re.compile(rf"(?<![\w.])(?:{names})\b")
    found = [
        (file.name, node.value)
        for root in ("gateway", "plugins")
        for file in sorted((ROOT / root).rglob("*.py"))
        if name.search(text := file.read_text())  # to parse them all takes two seconds
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and name.search(node.value)
    ]
    assert found == []


def test_manual_lists_each_renamed_field_and_option() -> None:
    text = "\n".join(" ".join(row) for row in table("Former name"))
    for old, (now, former) in FORMER.items():
        if len(old) == 1 or old[0] != "limits":
            assert f"`{'.'.join(old)}" in text, old
            assert f"`{'.'.join(now)}" in text, now
            assert former.until == "0.2"
    told = {
        (name, *(cell.strip("`") for cell in (row[0].rpartition(": ")[2], row[1])))
        for row in table("Former name")
        for name in row[0].rpartition(": ")[0].replace("`", "").split(", ")
    }
    for name, _, old, now in PLUGIN_RENAMES:
        assert (name, ".".join(old), ".".join(now)) in told
    plugins = {row for row in told if row[0] in {name for name, *_ in PLUGIN_RENAMES}}
    assert len(plugins) == len(PLUGIN_RENAMES)


def test_each_present_name_exists() -> None:
    """A rename that leads nowhere would make the option unknown."""
    for cls in (Config, *(config for _, config, _, _ in PLUGIN_RENAMES)):
        check_names(cls)


def check_names(cls: Any) -> None:
    known = {field.encode_name: field.type for field in fields_of(cls)}
    assert not known.keys() & former_names(cls).keys()
    for former in former_names(cls).values():
        names = known
        for name in former.path[:-1]:
            names = {field.encode_name: field.type for field in fields_of(names[name])}
        assert former.path[-1] in names
    for type_ in known.values():
        if container_kind(type_) is msgspec.Struct:
            check_names(type_)
