"""docs/hooks-reference.md agrees with the code, and the plugins in docs/hooks.md run."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from support.paths import DOCS
from support.paths import TESTS as TESTS_FOLDER
from support.plugins.recording_plugin import Watcher

import gateway
from gateway import Api, Attempt, Call, ChoiceDelta, Delta, Host, Outcome, testing
from gateway.plugins import hookspecs
from gateway.plugins.plugin import SPECS
from gateway.testing import GatewayFor, fixtures

GUIDE = (DOCS / "hooks.md").read_text()
REFERENCE = (DOCS / "hooks-reference.md").read_text()
FILES = ("test_hooks.py", "test_trace_ratio.py")
TESTS = [
    name
    for file in FILES
    for name in re.findall(r"def (test_\w+)", (TESTS_FOLDER / "plugins" / file).read_text())
]

Signature = tuple[bool, str, list[tuple[str, str]], str]


def signature_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Signature:
    """Whether it is async, its name, its arguments and what it returns; quotes do not count."""
    arguments = [(one.arg, _plain(one.annotation)) for one in function.args.args]
    is_async = isinstance(function, ast.AsyncFunctionDef)
    return is_async, function.name, arguments, _plain(function.returns)


def _plain(annotation: ast.expr | None) -> str:
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return annotation.value
    return "" if annotation is None else ast.unparse(annotation)


def functions_in(code: str, owner: str | None = None) -> Iterator[Signature]:
    """Those at the top, or the methods of the class `owner`."""
    nodes = ast.parse(code).body
    if owner is not None:
        [nodes] = [one.body for one in nodes if isinstance(one, ast.ClassDef) and one.name == owner]
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield signature_of(node)


def section(title: str, page: str = REFERENCE) -> str:
    found = re.search(rf"^#+ {title}\n(.*?)(?=^#|\Z)", page, re.MULTILINE | re.DOTALL)
    assert found is not None, f"there is no section {title!r}"
    return found[1]


def code_in(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", SPECS)
def test_the_reference_has_each_hook_with_its_signature(name: str) -> None:
    [code] = code_in(section(name))
    specs = functions_in(inspect.getsource(hookspecs))
    assert list(functions_in(code)) == [spec for spec in specs if spec[1] == name]


@pytest.mark.parametrize("name", SPECS)
def test_each_hook_has_a_test_named_after_it(name: str) -> None:
    assert any(test.startswith(f"test_{name}") for test in TESTS)


def test_the_reference_has_each_method_of_an_observer() -> None:
    text = section("The observer")
    methods = list(functions_in(inspect.getsource(hookspecs), "Observer"))
    assert list(functions_in(code_in(text)[0], "Observer")) == methods
    assert first_column(text) == [name for _, name, _, _ in methods]


def first_column(text: str) -> list[str]:
    """The names in backquotes that each row begins with, without their arguments."""
    cells = re.findall(r"^\| (`.+?) \|", text, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`(\w+)", cell)]


@pytest.mark.parametrize("struct", [Attempt, Outcome, Delta, ChoiceDelta])
def test_the_reference_has_each_field(struct: type[msgspec.Struct]) -> None:
    named = sorted(first_column(section(struct.__name__)))
    assert named == sorted(name for name in dir(struct) if not name.startswith("_"))


def test_the_reference_has_each_attribute_of_a_call() -> None:
    text = section("Call")
    named = first_column(text)
    assert sorted(named) == sorted(name for name in dir(Call) if not name.startswith("_"))


def test_the_reference_has_each_attribute_of_an_api() -> None:
    named = sorted(first_column(section("Api")))
    assert named == sorted(name for name in dir(Api) if not name.startswith("_"))


def test_the_reference_has_each_public_name() -> None:
    assert sorted(first_column(section("Public names"))) == sorted(gateway.__all__)


def test_the_reference_has_all_that_a_plugin_may_ask_of_the_gateway() -> None:
    asked = {name for name in vars(Host) if not name.startswith("_")}
    assert sorted(first_column(section("Host"))) == sorted(asked)


def test_the_guide_has_each_helper_for_tests() -> None:
    named = {name for name in first_column(section("Testing", GUIDE)) if name not in vars(fixtures)}
    assert named | {"make_call"} <= set(testing.__all__)
    besides = {
        "GatewayFor",
        "MESSAGES",
        "Live",
        "RecordedCall",
        "RecordingCaller",
        "ScriptedConnection",
    }
    assert set(testing.__all__) - besides <= named | {"make_call"}


PLUGINS = [code for code in code_in(GUIDE) if "@hookimpl" in code]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("code", PLUGINS, ids=[ast.get_docstring(ast.parse(c)) for c in PLUGINS])
async def test_the_plugins_in_the_guide_run(
    gateway_for: GatewayFor, tmp_path: Path, code: str, stream: bool
) -> None:
    file = tmp_path / "in_the_guide.py"
    file.write_text(code)
    live = await gateway_for("sessions", str(file), Watcher)
    messages = [{"role": "user", "content": "Hello"}]
    body = {"model": "sim", "messages": messages, "max_tokens": 4, "stream": stream}
    answer = await live.client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200
    outcome = await live.plugin(Watcher).outcome()
    assert (outcome.complete, outcome.failures) == (True, [])


def test_the_first_plugin_in_the_guide_has_a_dozen_lines() -> None:
    assert len([line for line in PLUGINS[0].splitlines() if line]) <= 12
