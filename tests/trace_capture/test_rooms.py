"""The rooms of the plugin, as its docstring lists them, and which of them may import which."""

import re
from pathlib import Path

import gateway_plugins.trace_capture as plugin

FOLDER = Path(plugin.__file__).parent
IMPORT = re.compile(r"^\s*from gateway_plugins\.trace_capture\.(\w+)", re.MULTILINE)


def order() -> dict[str, int]:
    """The place of each room in the docstring's order."""
    listed = " ".join((plugin.__doc__ or "").split()).partition("in this order: ")[2]
    groups = [re.findall(r"\w+", group.replace(" and ", " ")) for group in listed.split(";")]
    return {room: place for place, group in enumerate(groups) for room in group}


def rooms() -> set[str]:
    return {path.parent.name for path in FOLDER.glob("*/__init__.py")}


def test_docstring_says_what_each_room_is_for() -> None:
    assert set(order()) == rooms() | {"codec"}
    assert [room for room in rooms() if f"`{room}/`" not in (plugin.__doc__ or "")] == []


def test_no_room_imports_one_that_is_named_after_it() -> None:
    places, wrong = order(), []
    for room in rooms():
        for path in (FOLDER / room).rglob("*.py"):
            found = IMPORT.findall(path.read_text("utf-8"))
            wrong += [(path.name, one) for one in found if places[one] > places[room]]
    assert wrong == []
