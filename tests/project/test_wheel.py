"""What the package is built into: wheels with the native kernel, sources for others."""

import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder
from support.paths import ROOT

from gateway.kernel import build

KERNEL = f"gateway/kernel/{build.TARGET.name}"
ENTRIES = ("gateway", "plugins", "pyproject.toml", "hatch_build.py", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project, with the kernel that has been compiled here."""
    copied = tmp_path_factory.mktemp("project")
    for name in (*ENTRIES, ".gitignore"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copied / name)
        else:
            shutil.copy(ROOT / name, copied)
    return copied


@pytest.fixture
def bare_tree(tree: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The copy without a kernel, and nothing that compiles one."""
    monkeypatch.setenv("CC", "false")
    kernel = tree / KERNEL
    kept = kernel.rename(tree / "kept")
    yield tree
    kept.rename(kernel)


def wheel(tree: Path, version: str = "standard") -> Path:
    [made] = WheelBuilder(str(tree)).build(directory=str(tree / "dist"), versions=[version])
    return Path(made)


def test_wheel_has_the_kernel_for_every_later_python(tree: Path) -> None:
    made = wheel(tree)
    assert "-cp311-abi3-" in made.name
    assert not made.name.endswith("-any.whl")
    with ZipFile(made) as opened:
        names = opened.namelist()
        assert opened.read(KERNEL) == (ROOT / KERNEL).read_bytes()
    assert "gateway/kernel/build.py" in names
    assert not [name for name in names if name.endswith((".c", ".h"))]


def test_wheel_without_a_compiler_is_for_every_machine(
    bare_tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = wheel(bare_tree)
    assert made.name.endswith("-py3-none-any.whl")
    with ZipFile(made) as opened:
        assert KERNEL not in opened.namelist()
    told = "".join(capsys.readouterr())
    assert "the native kernel was not compiled: `false " in told
    assert "With a C compiler (gcc or clang; or one that CC names) install it again" in told


def test_editable_wheel_leaves_the_kernel_in_the_tree(tree: Path) -> None:
    made = wheel(tree, "editable")
    assert made.name.endswith("-py3-none-any.whl")
    with ZipFile(made) as opened:
        assert not [name for name in opened.namelist() if name.endswith(".so")]
    assert (tree / KERNEL).exists()


def test_sdist_has_the_sources_of_the_kernel(tree: Path) -> None:
    [made] = SdistBuilder(str(tree)).build(directory=str(tree / "dist"))
    with tarfile.open(made) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    expected = {str(file.relative_to(ROOT)) for file in build.NATIVE.rglob("*.[ch]")}
    assert expected
    assert {*expected, "hatch_build.py"} <= names
    assert KERNEL not in names


def test_build_asks_for_ziglang_only_without_a_compiler(
    tree: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CC", "cc")
    assert "ziglang" not in WheelBuilder(str(tree)).config.dependencies
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "ziglang" in WheelBuilder(str(tree)).config.dependencies
    assert "ziglang" not in SdistBuilder(str(tree)).config.dependencies
