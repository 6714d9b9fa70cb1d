"""The programs that a measurement needs besides the gateway, in a folder that is kept."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from gateway import ConfigError

GO = Path(__file__).parent / "go"


def default_folder() -> Path:
    """In the cache of whoever runs this."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "gateway-bench"


def on_path(name: str, package: str) -> str:
    """Raises ConfigError where there is no such program."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        raise ConfigError(f"{name} is not installed; on Debian: apt-get install {package}")
    return found


def build(folder: Path) -> Path:
    """The folder with `load` and `upstream`, as they are in the sources now."""
    made = folder / "programs"
    made.mkdir(parents=True, exist_ok=True)
    go = on_path("go", "golang-go")
    said([go, "build", "-o", str(made), "./..."], cwd=GO)
    return made


def venv(folder: Path, package: str, version: str, *more: str) -> Path:
    """The folder of the programs of a package from PyPI, installed at its first use.

    Raises ConfigError where it cannot be installed.
    """
    where = folder / f"{package.partition('[')[0]}-{version}"
    if not (where / ".installed").exists():
        said([sys.executable, "-m", "venv", "--clear", str(where)])
        said([str(where / "bin/pip"), "install", "--quiet", f"{package}=={version}", *more])
        (where / ".installed").touch()
    return where / "bin"


def with_ours(environment: Mapping[str, str]) -> dict[str, str]:
    """It and that of this process, of which no GATEWAY_ setting counts."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    return {**ours, **environment}


def said(
    argv: list[str], cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> str:
    """What a program says, with this environment besides ours.

    Raises ConfigError with the end of what it says, if it fails.
    """
    done = subprocess.run(
        argv,
        cwd=cwd,
        env=with_ours(environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ConfigError(f"{' '.join(argv)} failed: {done.stdout[-1000:].strip()}")
    return done.stdout.strip()
