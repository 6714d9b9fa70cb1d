"""Compiles the native kernel: `python gateway/kernel/build.py`, which needs no other package.

Run by the build hook of the package (hatch_build.py) and by `make`. The result is
`_native.abi3.so` beside this file, for every Python from 3.11 on. A kernel built from the sources
as they are now is left alone.
"""

import argparse
import hashlib
import importlib.metadata
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
NATIVE = HERE / "native"
TARGET = HERE / "_native.abi3.so"

FLAGS = ("-std=c11", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra")
LINKING = {"darwin": ("-undefined", "dynamic_lookup")}
SANITIZED = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g", "-O1")


class CannotBuild(Exception):
    """The message says why."""


def sources() -> list[Path]:
    """Return the C sources; none in an installed package."""
    return sorted(NATIVE.rglob("*.c"))


def digest() -> str:
    """Return what tells apart kernels of different sources; a kernel has it as SOURCES."""
    taken = hashlib.sha256()
    for file in (*sources(), *sorted(NATIVE.rglob("*.h")), Path(__file__)):
        name = file.relative_to(HERE).as_posix()
        taken.update(name.encode() + b"\0" + file.read_bytes() + b"\0")
    return f"sources-{taken.hexdigest()[:16]}"


def find_compiler() -> list[str] | None:
    """Return the command of a C compiler: $CC alone if set, else what is there."""
    if given := os.environ.get("CC"):
        return shlex.split(given)
    for name in (sysconfig.get_config_var("CC") or "", "cc", "gcc", "clang"):
        words = shlex.split(name)
        if words and shutil.which(words[0]):
            return words
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc", "-mcpu=baseline"]  # else for this processor
    return None


def has_header() -> bool:
    """Whether this Python has come with Python.h; else `native/abi/` has one in its place."""
    return (Path(sysconfig.get_path("include")) / "Python.h").exists()


def is_current(target: Path = TARGET) -> bool:
    """Whether `target` was built from the sources as they are now."""
    return target.exists() and digest().encode() in target.read_bytes()


def build(target: Path = TARGET, *, extra: Sequence[str] = (), own_header: bool = False) -> None:
    """Compile the kernel to `target`, in place of an older one at once. Raises CannotBuild."""
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise CannotBuild("a Python without a GIL has no stable ABI")
    compiler = find_compiler()
    if compiler is None:
        raise CannotBuild("there is no C compiler: install gcc or clang, or name one in CC")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as folder:
        made = Path(folder) / target.name
        flags = [*FLAGS, *LINKING.get(sys.platform, ()), *extra, *_defines(compiler, own_header)]
        _compile([*compiler, *flags, *map(str, sources()), "-lm"], made)
        made.replace(target)


def _compile(command: Sequence[str], made: Path) -> None:
    """Run the compiler. Zig keeps what it has compiled once in a cache: none is left behind."""
    caches = {"ZIG_GLOBAL_CACHE_DIR": str(made.parent), "ZIG_LOCAL_CACHE_DIR": str(made.parent)}
    try:
        subprocess.run(
            [*command, "-o", str(made)],
            check=True,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**caches, **os.environ},
        )
    except OSError as error:
        raise CannotBuild(f"{command[0]}: {error}") from None
    except subprocess.CalledProcessError as error:
        failed = f"`{shlex.join(command)}` failed with status {error.returncode}"
        raise CannotBuild("\n".join([failed, *error.stderr.splitlines()[-20:]])) from None
    if not made.exists():
        raise CannotBuild(f"{shlex.join(command)} wrote nothing")


def _defines(compiler: Sequence[str], own_header: bool) -> list[str]:
    built = f"abi3, built by {_version(compiler)}".replace('"', "'")
    paths = [sysconfig.get_path(name) for name in ("include", "platinclude")]
    if own_header or not has_header():
        paths = [str(NATIVE / "abi")]
    defined = [f'-DKERNEL_BUILT="{built}"', f'-DKERNEL_SOURCES="{digest()}"']
    return [*defined, *(f"-I{path}" for path in (NATIVE, *paths))]


def _version(compiler: Sequence[str]) -> str:
    if "ziglang" in compiler:
        return f"ziglang {importlib.metadata.version('ziglang')}"
    name = Path(compiler[0]).name
    try:
        told = subprocess.run([*compiler, "-dumpversion"], capture_output=True, text=True)
    except OSError as error:
        raise CannotBuild(f"{compiler[0]}: {error}") from None
    return f"{name} {told.stdout.strip()}".strip()


def _print_compiler() -> int:
    compiler = find_compiler()
    print(shlex.join(compiler or ()))
    return compiler is None


def main() -> None:
    """Build the kernel if it is not current; exit with 1 and the reason if that fails."""
    parser = argparse.ArgumentParser(description="Compile the native kernel.")
    parser.add_argument("--strict", action="store_true", help="warnings are errors")
    parser.add_argument("--sanitize", action="store_true", help="with ASan and UBSan")
    parser.add_argument("--output", type=Path, default=TARGET, help="the file to write")
    parser.add_argument("--own-header", action="store_true", help="do without Python.h")
    parser.add_argument("--find", action="store_true", help="only print the compiler; 1: none")
    options = parser.parse_args()
    if options.find:
        sys.exit(_print_compiler())
    extra = ("-Werror",) * options.strict + SANITIZED * options.sanitize
    if is_current(options.output):
        return
    try:
        build(options.output, extra=extra, own_header=options.own_header)
    except CannotBuild as error:
        sys.exit(f"the native kernel was not built, so the gateway runs in Python: {error}")


if __name__ == "__main__":
    main()
