"""docs/uploads.md: its tables are complete."""

import ast
import json
import re
from collections.abc import Iterator

import msgspec
from gateway_plugins.uploads.options import Options
from support.paths import DOCS, ROOT

TEXT = (DOCS / "uploads.md").read_text()
PLUGIN = ROOT / "plugins/gateway_plugins/uploads"
OF_THE_GATEWAY = {"missing_scope", "model_not_allowed", "upload_gone"}
"""Codes of the gateway's own manual, and one that always comes under another name."""


def section(title: str) -> str:
    return TEXT.partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_manual_lists_each_option_with_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(.+?)` \| .+ \|$", section("Options"), re.MULTILINE)
    fields = msgspec.structs.fields(Options)
    assert rows == [(field.name, json.dumps(field.default)) for field in fields]


def test_manual_lists_each_error_code_with_its_status() -> None:
    listed = set(
        re.findall(
            r"`(\w+)`", "".join(re.findall(r"^\| (.+?) \|", section("Errors"), re.MULTILINE))
        )
    )
    classes = dict(_codes())
    assert classes.keys() - OF_THE_GATEWAY <= listed
    for code, status in classes.items():
        if code not in OF_THE_GATEWAY and status is not None:
            assert re.search(rf"`{code}`.* \| {status} \|", section("Errors")), code


def _codes() -> Iterator[tuple[str, int | None]]:
    """Yield the codes of the plugin's errors, with the statuses of those that are classes."""
    for file in PLUGIN.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef):
                values = _constants(node)
                if "code" in values and values["code"] is not None:
                    yield str(values["code"]), values.get("status")  # type: ignore[misc]
            elif isinstance(node, ast.Call):
                yield from _code_in_call(node)


def _constants(node: ast.ClassDef) -> dict[str, object]:
    return {
        target.id: line.value.value
        for line in node.body
        if isinstance(line, ast.Assign) and isinstance(line.value, ast.Constant)
        for target in line.targets
        if isinstance(target, ast.Name)
    }


def _code_in_call(node: ast.Call) -> Iterator[tuple[str, None]]:
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    first = node.args[0] if node.args else None
    if name in ("Refusal", "Refused") and isinstance(first, ast.Constant):
        yield str(first.value), None
    for keyword in node.keywords:
        if keyword.arg == "code" and isinstance(keyword.value, ast.Constant):
            yield str(keyword.value.value), None
