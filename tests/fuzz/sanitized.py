"""A kernel compiled with sanitizers, and the process that may load it."""

import ctypes
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from typing import cast

from gateway.kernel import build
from gateway.kernel.interface import Functions

VARIABLE = "FUZZED_KERNEL"
"""The file of the kernel, in the environment of a process that has the sanitizers' library."""


def run_sanitized(arguments: Sequence[str]) -> int:
    """Run `python -m fuzz` once more with a sanitized kernel; return its exit status.

    The library has to be there before Python is, and Python's own allocator would hide bounds.
    """
    with _built() as kernel:
        environ = {
            **os.environ,
            VARIABLE: str(kernel),
            "LD_PRELOAD": " ".join(_libraries()),
            "PYTHONMALLOC": "malloc",
            "ASAN_OPTIONS": "leak_check_at_exit=0:allocator_may_return_null=1",
            "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        }
        return subprocess.run([sys.executable, "-m", "fuzz", *arguments], env=environ).returncode


def has_leaked() -> bool:
    """Whether memory is lost, which the sanitizer then prints. At its exit Python loses much."""
    library = ctypes.CDLL(None)
    return bool(library.__lsan_do_recoverable_leak_check())


def load(path: str) -> Functions:
    """Return the kernel in this file."""
    loader = ExtensionFileLoader("gateway.kernel._native", path)
    spec = importlib.util.spec_from_file_location(loader.name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return cast(Functions, module)


@contextmanager
def _built() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        kernel = Path(folder) / build.TARGET.name
        build.build(kernel, extra=build.SANITIZED)
        yield kernel


def _libraries() -> list[str]:
    """Return the sanitizers' libraries of the compiler; they come with gcc and clang."""
    compiler = build.find_compiler() or ["cc"]
    found = []
    for name in ("libasan.so", "libubsan.so"):
        told = subprocess.run(
            [*compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        )
        path = told.stdout.strip()
        if not Path(path).is_absolute():
            sys.exit(f"{compiler[0]} has no {name}: the fuzz needs gcc with its sanitizers")
        found.append(path)
    return found
