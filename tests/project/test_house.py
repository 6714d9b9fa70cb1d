"""Rules for the shape of the code: sizes of files and folders, and directions of imports."""

import ast
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from support.paths import ROOT
from support.source_tree import Import, c_files, circles, imports, modules, place, python_files

MAX_LINES = 400
MAX_FILES = 12
"""Number of files of code in one folder, `__init__.py` and headers of C included."""

FLOORS = (
    ("trace", "errors", "headers"),
    ("kernel",),
    ("config", "cluster"),
    ("telemetry", "wire"),
    ("storage", "upstream"),
    ("fleet",),
    ("calls",),
    ("plugins",),
    ("pipeline",),
    ("frontends", "control"),
    ("app",),
    ("serve",),
    ("simulator", "client"),
    ("testing",),
    ("demo", "__init__"),
    ("cli",),
)
"""Rooms of gateway/ from the ground up. A room imports from floors below its own only."""

FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

Step = tuple[str, str, str]
"""A folder, and the two of its entries of which the first imports the second."""


def test_files_have_at_most_400_lines() -> None:
    lengths = {file: len(file.read_text().splitlines()) for file in code_files()}
    long = [
        f"{place(file, MAX_LINES + 1)}: the file has {lines} lines"
        for file, lines in lengths.items()
        if lines > MAX_LINES
    ]
    assert not long, report(f"A file has at most {MAX_LINES} lines.", long)


def test_folders_have_at_most_12_files_of_code() -> None:
    counts = Counter(file.parent for file in code_files())
    full = [
        f"{folder.relative_to(ROOT)}/: {count} files of code"
        for folder, count in sorted(counts.items())
        if count > MAX_FILES
    ]
    assert not full, report(f"A folder has at most {MAX_FILES} files of code.", full)


def test_packages_have_a_docstring() -> None:
    packages = [file for file in python_files() if file.name == "__init__.py"]
    bare = [place(file) for file in packages if not ast.get_docstring(ast.parse(file.read_text()))]
    assert not bare, report("The `__init__.py` of a package begins with a docstring.", bare)


def test_files_do_not_import_each_other_in_a_circle() -> None:
    edges: dict[str, set[str]] = defaultdict(set)
    for one in imports():
        edges[one.importer].add(one.imported)
    found = [
        line
        for circle in circles(edges)
        for line in ["Circle:", *places(one for one in imports() if {*one[:2]} <= {*circle})]
    ]
    assert not found, report("Files do not import each other in a circle.", found)


def test_folders_do_not_import_each_other_in_a_circle() -> None:
    """The entries of each folder, its files and subfolders, form no circle either."""
    steps: dict[Step, list[Import]] = defaultdict(list)
    for one in imports():
        steps[step_of(one)].append(one)
    found = [
        line
        for folder in sorted({folder for folder, _, _ in steps})
        for circle in circles(edges_in(folder, steps))
        for line in [
            f"Circle of {', '.join(circle)} in {folder}:",
            *places(steps_between(folder, circle, steps)),
        ]
    ]
    assert not found, report("Folders do not import each other in a circle.", found)


def test_rooms_of_the_core_have_a_floor() -> None:
    rooms = {room_of(name) for name in modules() if name.split(".")[0] == "gateway"}
    missing = sorted(rooms - {*FLOOR})
    assert not missing, report("Each room of gateway/ stands in FLOORS of this test.", missing)


def test_rooms_of_the_core_import_from_lower_floors_only() -> None:
    upward = [
        one
        for one in imports()
        if one.importer.split(".")[0] == "gateway" == one.imported.split(".")[0]
        and not goes_down(room_of(one.importer), room_of(one.imported))
    ]
    assert not upward, report("A room of gateway/ imports from lower floors only.", places(upward))


def test_the_core_does_not_import_plugins() -> None:
    found = [one for one in imports() if one.importer.split(".")[0] == "gateway"]
    wrong = [one for one in found if one.imported.startswith("gateway_plugins")]
    assert not wrong, report("gateway/ imports nothing from plugins/.", places(wrong))


def test_circle_search_finds_a_circle() -> None:
    edges = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "e": {"e"}}
    assert circles(edges) == [["b", "c"], ["e"]]


def code_files() -> list[Path]:
    found = c_files()
    assert {file.suffix for file in found} == {".c", ".h"}
    return [*python_files(), *found]


def goes_down(importer: str, imported: str) -> bool:
    return importer == imported or FLOOR.get(imported, -1) < FLOOR.get(importer, len(FLOORS))


def room_of(module: str) -> str:
    """Return the folder or file of gateway/ that `module` belongs to."""
    return [*module.split("."), "__init__"][1]


def step_of(one: Import) -> Step:
    """Return the lowest folder that holds both modules, and its entries that hold one each."""
    importer, imported = ([*name.split("."), "__init__"] for name in one[:2])
    depth = 0
    while importer[depth] == imported[depth]:
        depth += 1
    return ".".join(importer[:depth]), importer[depth], imported[depth]


def edges_in(folder: str, steps: Iterable[Step]) -> dict[str, set[str]]:
    edges: dict[str, set[str]] = defaultdict(set)
    for parent, importer, imported in steps:
        if parent == folder:
            edges[importer].add(imported)
    return edges


def steps_between(folder: str, circle: list[str], steps: dict[Step, list[Import]]) -> list[Import]:
    """Return the first import of each step of the circle."""
    return [
        found[0]
        for (parent, importer, imported), found in steps.items()
        if parent == folder and {importer, imported} <= {*circle}
    ]


def places(found: Iterable[Import]) -> list[str]:
    return [f"{one.place}: {one.importer} imports {one.imported}" for one in found]


def report(rule: str, found: list[str]) -> str:
    return "\n  ".join([rule, *found])
