"""How plugins are found, configured, checked and ordered, and that each mistake is told."""

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from support.plugins.hook_probes import Counting, Keys, Limit, Only, OtherKeys

from gateway import ConfigError, Gateway
from gateway.config import Config, PluginEntry, Worker, load
from gateway.fleet.registry import Workers
from gateway.plugins.loader import Plugins
from gateway.testing import entry, make_call

HEAD = "import msgspec\nfrom gateway import hookimpl\n"

ADMITS = """
class {name}:
    @hookimpl
    async def admit(self, call): ...
"""

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a plugin's file and gives its path."""

    def to_file(source: str, name: str = "mine") -> str:
        file = tmp_path / f"{name}.py"
        file.write_text(HEAD + dedent(source))
        return str(file)

    return to_file


def loaded(*plugins: str | type | PluginEntry) -> Plugins:
    return Plugins([p if isinstance(p, PluginEntry) else entry(p) for p in plugins])


async def waited(result: Any) -> Any:
    return await result if isinstance(result, Awaitable) else result


def problems_of(*plugins: str | type | PluginEntry) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(*plugins)
    return list(caught.value.problems)


def test_loader_loads_an_installed_plugin_by_name() -> None:
    [plugin] = loaded("sessions").loaded
    assert (plugin.name, type(plugin.object).__name__) == ("sessions", "Sessions")


def test_loader_loads_a_module_with_one_class() -> None:
    [plugin] = loaded("gateway_plugins.access_log").loaded
    assert (plugin.name, type(plugin.object).__name__) == ("access_log", "AccessLog")


def test_loader_loads_a_class_of_a_module() -> None:
    [plugin] = loaded("support.plugins.hook_probes:Limit").loaded
    assert (plugin.name, type(plugin.object)) == ("Limit", Limit)


def test_loader_loads_a_file_with_one_class(write: Write) -> None:
    [plugin] = loaded(write(ADMITS.format(name="Mine"))).loaded
    assert (plugin.name, type(plugin.object).__name__) == ("mine", "Mine")


def test_loader_loads_classes_of_a_file(write: Write) -> None:
    file = write(ADMITS.format(name="One") + ADMITS.format(name="Two"))
    plugins = loaded(f"{file}:Two", f"{file}:One")
    assert [hook.plugin for hook in plugins.hooks["admit"]] == ["Two", "One"]


def test_loader_loads_a_bare_module_without_options(write: Write) -> None:
    file = write("@hookimpl\nasync def admit(call): ...")
    [plugin] = loaded(file).loaded
    assert plugin.object.__name__ == "gateway_file_mine"
    [problem] = problems_of(entry(file, a=1))
    assert problem == "test: plugin mine is a bare module and takes no options"


def test_loader_loads_a_class_with_inherited_hooks(write: Write) -> None:
    source = "from support.plugins.hook_probes import Limit\nclass Mine(Limit): ..."
    assert [hook.plugin for hook in loaded(write(source)).hooks["admit"]] == ["mine"]


def test_loader_resolves_plugin_files_relative_to_the_config_file(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(ADMITS.format(name="Mine"))
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    file = tmp_path / "gateway.yaml"
    file.write_text("plugins: [./mine.py]")
    for config in (load(file), load(Path("..", "gateway.yaml"))):
        assert [plugin.name for plugin in Plugins(config.plugins).loaded] == ["mine"]


def test_loader_resolves_other_plugin_files_in_the_working_directory(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(ADMITS.format(name="Mine"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    file = folder / "gateway.yaml"
    file.write_text("plugins: [./missing.py]")
    by_environment = load(file, {"GATEWAY_PLUGINS": "./mine.py"})
    by_option = load(file, overrides={"plugins": ["./mine.py"]})
    for config in (by_environment, by_option):
        assert [plugin.name for plugin in Plugins(config.plugins).loaded] == ["mine"]
    with pytest.raises(ConfigError, match=r"gateway.yaml:1: plugin '.*elsewhere/missing.py'"):
        Plugins(load(file).plugins)


def test_loader_imports_only_named_plugins(write: Write) -> None:
    write("raise RuntimeError('loaded')", "not_named")
    sys.modules.pop("gateway_plugins.access_log", None)
    gateway = Gateway(Config(plugins=(entry("sessions"),)))
    assert [plugin.name for plugin in gateway.plugins.loaded] == ["sessions"]
    assert "gateway_plugins.access_log" not in sys.modules
    assert not gateway.chains.call_finished


CONFIGURED = """
class Mine:
    class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        limit: int
        names: tuple[str, ...] = ()

    def __init__(self, config):
        self.config = config

    @hookimpl
    async def admit(self, call): ...
"""


def test_loader_converts_options_to_the_plugin_config(write: Write) -> None:
    [plugin] = loaded(entry(write(CONFIGURED), limit=3, names=["a"])).loaded
    assert (plugin.object.config.limit, plugin.object.config.names) == (3, ("a",))


def test_loader_error_names_file_plugin_and_field_of_an_option(
    write: Write, tmp_path: Path
) -> None:
    write(CONFIGURED)
    file = tmp_path / "gateway.yaml"
    file.write_text("plugins:\n  - sessions\n  - ./mine.py:\n      limit: many\n      nmaes: []\n")
    with pytest.raises(ConfigError) as caught:
        Plugins(load(file).plugins)
    first, second = caught.value.problems
    assert first.startswith(f'{file}:4: plugins."./mine.py".limit: expected ')
    assert second == f'{file}:5: plugins."./mine.py".nmaes: unknown option; did you mean "names"?'


def test_loader_rejects_options_of_a_plugin_without_any() -> None:
    assert problems_of(entry(Limit, room=3)) == ["test: plugin Limit takes no options"]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (
            "class Mine:\n    @hookimpl\n    async def admitt(self, call): ...",
            "plugin mine: there is no hook 'admitt'; did you mean 'admit'?",
        ),
        (
            "@hookimpl\nasync def zzz(call): ...",
            "plugin mine: there is no hook 'zzz' (hooks: add_commands, admit, ",
        ),
        (
            ADMITS.format(name="Mine") + "    async def prepare(self, call): ...",
            "plugin mine: prepare is a hook's name; mark it with @hookimpl",
        ),
        (
            "@hookimpl\ndef admit(call): yield",
            "plugin mine: admit must return its result, not yield it",
        ),
        (
            "@hookimpl\nasync def handle(call): yield",
            "plugin mine: handle must return its result, not yield it",
        ),
        (
            "@hookimpl\nasync def observe(call): ...",
            "plugin mine: observe must be a plain `def`, not `async def`",
        ),
        (
            "@hookimpl\nasync def admit(cal): ...",
            "plugin mine: Argument(s) {'cal'} are declared in the hookimpl but can not be found",
        ),
        ("async def admit(call): ...", "nothing in it is marked with @hookimpl"),
        (
            ADMITS.format(name="One") + ADMITS.format(name="Two"),
            "holds several plugins: say {file}:One or {file}:Two",
        ),
        (
            ADMITS.format(name="One") + "@hookimpl\nasync def prepare(call): ...",
            "say {file}:One; its @hookimpl functions need a file of their own",
        ),
        ("def broken(:", "has a syntax error: invalid syntax ({file}, line 3)"),
        ("1 / 0", "cannot be loaded: ZeroDivisionError: division by zero"),
        ("import not_there", "cannot be loaded: ModuleNotFoundError: No module named 'not_there'"),
        (
            ADMITS.format(name="Mine") + "    def __init__(self): raise OSError('no disk')",
            "plugin mine did not start: OSError: no disk",
        ),
        *(
            (
                f"@hookimpl({option}=True)\nasync def admit(call): ...",
                f"plugin mine: admit cannot use {option}: hooks run in the order of the file",
            )
            for option in ("tryfirst", "trylast", "wrapper", "hookwrapper")
        ),
    ],
)
def test_loader_reports_an_error_in_a_plugin(write: Write, source: str, says: str) -> None:
    file = write(source)
    problems = problems_of(file)
    assert problems[0].startswith("test: plugin ")
    assert says.replace("{file}", file) in problems[0]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("sesions", "unknown plugin 'sesions'; did you mean 'sessions'?"),
        ("zzz", "unknown plugin 'zzz'; installed: access_log, "),
        ("no.such.module", "unknown plugin 'no.such.module'"),
        (
            "support.plugins.hook_probes:Limits",
            "hook_probes has no class 'Limits'",
        ),
        (
            "support.plugins.hook_probes:log",
            "hook_probes has no class 'log'",
        ),
        ("collections:Counter", "plugin 'collections:Counter': nothing in it is marked with"),
        ("./nowhere.py", "plugin 'nowhere.py': there is no such file"),
        ("tests/", "there is no such file"),
    ],
)
def test_loader_reports_an_unknown_plugin_name(name: str, says: str) -> None:
    [problem] = problems_of(name)
    assert says in problem


def test_loader_rejects_a_plugin_named_twice() -> None:
    assert problems_of(Limit, Limit) == ["test: plugin Limit is named twice"]


AFTER = ADMITS.format(name="Mine") + "    after = {after}"


@pytest.mark.parametrize("after", ["('sessions',)", "'sessions'"])
def test_loader_rejects_a_plugin_out_of_order(write: Write, after: str) -> None:
    file = write(AFTER.format(after=after))
    [problem] = problems_of(file, "sessions")
    assert problem == "test: plugin mine must come after sessions: move it below sessions"
    assert len(loaded("sessions", file).loaded) == 2
    assert len(loaded(file).loaded) == 1, "what is not enabled need not come first"


async def test_hooks_run_in_the_order_of_the_file() -> None:
    for order in ((Limit, Counting, Only), (Only, Counting, Limit)):
        hooks = loaded("sessions", *order).hooks
        assert [hook.plugin for hook in hooks["admit"]] == ["sessions", "Limit"]
    plugins = loaded(entry(OtherKeys, key="a"), entry(Keys, key="ab"))
    call = make_call(headers={"authorization": "abc"})
    await waited(plugins.chains().identify(call))
    assert call.principal is not None
    assert call.principal.id == "a"


async def test_hook_receives_only_the_arguments_it_names(write: Write) -> None:
    source = """
    @hookimpl
    async def filter_workers(workers):
        return workers[1:]

    @hookimpl
    async def pick_worker(workers, call):
        return workers[0] if call.path == "/p" else None

    @hookimpl
    async def admit(): ...
    """
    config = Config(workers=tuple(Worker(url=f"http://{host}") for host in "abc"))
    workers = Workers(config).all
    chains = loaded(write(source)).chains()
    call = make_call(path="/p")
    assert await waited(chains.filtered_workers(call, workers)) == workers[1:]
    assert await waited(chains.picked_worker(call, workers)) is workers[0]
    await waited(chains.run_admit(call))
    assert chains.run_prepare(call) is None


def test_loader_reports_all_errors_at_once(write: Write) -> None:
    wrong = write("@hookimpl\nasync def observe(call): ...")
    late = write(AFTER.format(after="('sessions',)"), "late")
    unknown, *rest = problems_of("nowhere", entry(Limit, room=1), wrong, late, "sessions")
    assert unknown.startswith("test: unknown plugin 'nowhere'")
    assert rest == [
        "test: plugin Limit takes no options",
        "test: plugin mine: observe must be a plain `def`, not `async def`",
        "test: plugin late must come after sessions: move it below sessions",
    ]


def test_gateways_in_one_process_share_nothing(write: Write) -> None:
    source = ADMITS.format(name="Mine") + "    seen = []"
    config = Config(plugins=(entry("sessions"), entry(write(source))))
    one, other = Gateway(config), Gateway(config)
    for mine, theirs in zip(one.plugins.loaded, other.plugins.loaded, strict=True):
        assert mine.object is not theirs.object
    one.plugins.loaded[1].object.seen.append("a call")
    assert other.plugins.loaded[1].object.seen == []
    assert one.chains.failures is not other.chains.failures
    assert one.proxy.in_flight is not other.proxy.in_flight


def test_migrations_of_another_kind_are_refused_with_the_name_of_the_plugin(write: Write) -> None:
    """Such as those of sqlite-utils, which plugins returned before."""
    source = """
    class Migrations:
        name = "notes"

    @hookimpl
    def migrations():
        return Migrations()
    """
    file = write(source)
    with pytest.raises(ConfigError) as raised:
        Gateway(Config(plugins=(entry(file),)))
    [problem] = raised.value.problems
    assert "did not start: TypeError: `migrations` must return gateway.Migrations, not " in problem
    assert problem.endswith(".Migrations")
