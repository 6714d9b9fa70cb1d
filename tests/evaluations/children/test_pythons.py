"""Environments of evaluations: what they hold, and how often they are built."""

import asyncio
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from gateway_plugins.evaluations.children.confined import Failed
from gateway_plugins.evaluations.children.pythons import Pythons
from gateway_plugins.evaluations.options import Options

PROJECT = """
[project]
name = "helping"
version = "1"
[build-system]
requires = []
build-backend = "own"
backend-path = ["."]
"""

BACKEND = """
import zipfile

INFO = "helping-1.dist-info/"
FILES = {
    "helping.py": "WORD = 'here'",
    INFO + "METADATA": "Metadata-Version: 2.1\\nName: helping\\nVersion: 1\\n",
    INFO + "WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    INFO + "RECORD": "",
}

def build_wheel(folder, settings=None, metadata=None):
    name = "helping-1-py3-none-any.whl"
    with zipfile.ZipFile(f"{folder}/{name}", "w") as wheel:
        for file, text in FILES.items():
            wheel.writestr(file, text)
    return name
"""


def package(folder: Path) -> Path:
    """Write a package that needs no index to be installed."""
    folder.mkdir()
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "own.py").write_text(BACKEND)
    return folder


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as made:
        yield made


def word(python: str) -> str:
    code = "import helping; print(helping.WORD)"
    return subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip()


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_fault_11_13_environment_is_built_once_for_each_set_of_dependencies(
    tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    needed = package(tmp_path / "package")
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    for folder in (one, two, three):
        folder.mkdir()
    for folder in (one, two):
        (folder / "requirements.txt").write_text(f"{needed}\n")
    listed = f'[project]\nname = "x"\ndependencies = ["helping @ file://{needed}"]\n'
    (three / "pyproject.toml").write_text(listed)
    pythons = [Pythons(tmp_path / "pythons", Options(), threads) for _ in range(2)]
    wanted = [made.python_for(folder) for made in pythons for folder in (one, two)]
    found = await asyncio.gather(*wanted)
    assert len(set(found)) == 1
    assert word(found[0]) == "here"
    marks = list((tmp_path / "pythons").glob("*/.ready"))
    built = {mark: mark.stat().st_mtime_ns for mark in marks}
    assert len(built) == 1
    assert await pythons[0].python_for(one) == found[0]
    assert {mark: mark.stat().st_mtime_ns for mark in marks} == built
    other = await pythons[0].python_for(three)
    assert other != found[0]
    assert word(other) == "here"


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_fault_11_13_environment_that_was_cut_off_is_built_anew(
    tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    needed = package(tmp_path / "package")
    (tmp_path / "requirements.txt").write_text(f"{needed}\n")
    made = Pythons(tmp_path / "pythons", Options(), threads)
    cut_off(Path(await made.python_for(tmp_path)))
    assert word(await made.python_for(tmp_path)) == "here"


def cut_off(python: Path) -> None:
    (python.parents[2] / ".ready").unlink()
    python.unlink()


async def test_evaluation_without_dependencies_has_the_python_of_the_options(
    tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    made = Pythons(tmp_path / "pythons", Options(python="/some/python"), threads)
    (tmp_path / "requirements.txt").write_text("\n")
    (tmp_path / "pyproject.toml").write_text("[tool.x]\n")
    assert await made.python_for(tmp_path / "none", tmp_path) == "/some/python"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("pyproject.toml", "[["),
        ("pyproject.toml", "[project]\ndependencies = 5\n"),
        ("pyproject.toml", "x = " + "[" * 100_000),
        ("requirements.txt", "x" * 2_000_000),
    ],
)
async def test_bad_files_of_dependencies_are_named(
    tmp_path: Path, threads: ThreadPoolExecutor, file: str, text: str
) -> None:
    (tmp_path / file).write_text(text)
    with pytest.raises(Failed, match=file):
        await Pythons(tmp_path / "pythons", Options(), threads).python_for(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_package_that_cannot_be_installed_is_a_failure_with_the_log(
    tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    (tmp_path / "requirements.txt").write_text(f"{tmp_path}/absent\n")
    with pytest.raises(Failed, match=r"installation: (.|\n)*absent"):
        await Pythons(tmp_path / "pythons", Options(), threads).python_for(tmp_path)
