"""The native kernel is compiled on any machine with a C compiler, with or without Python.h."""

import importlib.util
import subprocess
import sys
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from types import ModuleType

import pytest

from gateway.kernel import build

compiles = pytest.mark.skipif(build.find_compiler() is None, reason="there is no C compiler")


def load(path: Path) -> ModuleType:
    loader = ExtensionFileLoader("gateway.kernel._native", str(path))
    spec = importlib.util.spec_from_file_location(loader.name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.mark.slow
@compiles
@pytest.mark.parametrize("own_header", [False, True])
def test_sources_compile_without_a_warning(tmp_path: Path, own_header: bool) -> None:
    """If this fails with the own header alone, `native/abi/Python.h` lacks something."""
    target = tmp_path / build.TARGET.name
    build.build(target, extra=("-Werror", "-O1"), own_header=own_header)
    assert build.is_current(target)
    built = load(target)
    assert built.BUILT.startswith("abi3, built by ")
    assert build.digest() == built.SOURCES
    assert list(tmp_path.iterdir()) == [target]


@compiles
def test_own_header_makes_the_same_module(tmp_path: Path) -> None:
    target = tmp_path / build.TARGET.name
    build.build(target, extra=("-O1",), own_header=True)
    native = importlib.import_module("gateway.kernel._native")
    assert dir(load(target)) == dir(native)


def test_compiler_that_cc_names_is_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "ccache 'my cc'")
    assert build.find_compiler() == ["ccache", "my cc"]


def test_without_a_compiler_ziglang_compiles(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert build.find_compiler() is None
    (tmp_path / "ziglang.py").touch()
    importlib.invalidate_caches()
    assert build.find_compiler() == [sys.executable, "-m", "ziglang", "cc", "-mcpu=baseline"]


@pytest.mark.parametrize(
    ("compiler", "why"),
    [
        ("false", "failed with status 1"),
        ("true", "wrote nothing"),
        ("no-such-compiler", "no-such-compiler: "),
        ("sh -c 'echo Disk full >&2; exit 3'", "failed with status 3\nDisk full"),
    ],
)
def test_compiler_that_fails_leaves_the_old_kernel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, compiler: str, why: str
) -> None:
    monkeypatch.setenv("CC", compiler)
    target = tmp_path / build.TARGET.name
    target.write_bytes(b"old")
    with pytest.raises(build.CannotBuild, match=why):
        build.build(target)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_build_by_hand_needs_nothing_but_python(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """So `make` and the build hook can run it before the gateway's packages are there."""
    monkeypatch.setenv("CC", "false")
    target = tmp_path / "kernel.so"
    command = [sys.executable, "-I", "-S", build.__file__, "--output", str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "the native kernel was not built, so the gateway runs in Python: `false " in done.stderr
    target.write_bytes(build.digest().encode())
    assert subprocess.run(command, check=True, capture_output=True).stderr == b""
