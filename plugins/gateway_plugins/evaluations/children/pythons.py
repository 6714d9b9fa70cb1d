"""Environments of Python: one for each set of dependencies, built once and kept."""

import asyncio
import contextlib
import fcntl
import hashlib
import os
import shutil
import sys
import tomllib
from collections import defaultdict
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from pathlib import Path

from gateway_plugins.evaluations.children.confined import Command, Failed, Limits, run
from gateway_plugins.evaluations.children.removing import remove
from gateway_plugins.evaluations.children.scrubbing import for_building
from gateway_plugins.evaluations.children.users import User, renew
from gateway_plugins.evaluations.options import Options

FILES = ("pyproject.toml", "requirements.txt")
READY, VENV, TEMPORARY = ".ready", "venv", "tmp"
MAX_BYTES = 1024 * 1024
"""Size of a file of dependencies."""

POLL = 0.2
"""Seconds between two looks at a lock that another process has."""


class Pythons:
    """`folder` is that of the environments; a folder in it is named after its dependencies.

    They are built as `user`; None: as the gateway's own.
    """

    def __init__(
        self, folder: Path, options: Options, threads: Executor, user: User | None = None
    ) -> None:
        self._folder = folder
        self._user = user
        self._options = options
        self._threads = threads
        self._own = options.python or sys.executable
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def python_for(self, *places: Path) -> str:
        """Return the interpreter for an evaluation; builds its environment if that is missing.

        The first of the `places` that has dependencies counts. Raises Failed.
        """
        wanted = next((found for place in places if (found := _dependencies(place))), None)
        if wanted is None:
            return self._own
        owner = None if self._user is None else self._user.uid
        parts = f"{self._own}\n{owner}\n{VENV}\n{wanted}"
        name = hashlib.sha256(parts.encode()).hexdigest()[:32]
        place = self._folder / name
        if not (place / READY).exists():
            async with self._locks[name], _locked(self._folder / f"{name}.lock"):
                if not (place / READY).exists():
                    await self._build(place, wanted)
        return str(place / VENV / "bin" / "python")

    async def _build(self, place: Path, wanted: str) -> None:
        file, venv = place / "requirements.txt", place / VENV
        await asyncio.to_thread(self._begin, place, file, wanted)
        uv = shutil.which("uv")
        python = str(venv / "bin" / "python")
        if uv is not None:
            make = [uv, "venv", "--allow-existing", "--python", self._own, str(venv)]
            install = [uv, "pip", "install", "--python", python, "-r", str(file)]
        else:
            make = [self._own, "-m", "venv", str(venv)]
            install = [python, "-m", "pip", "install", "--no-input", "-r", str(file)]
        await self._run("environment", make, place)
        await self._run("installation", install, place)
        await asyncio.to_thread(remove, place / TEMPORARY)
        (place / READY).touch()

    def _begin(self, place: Path, file: Path, wanted: str) -> None:
        """Make the folder of an environment anew, with the requirements in it.

        The user owns what is built, but not the folder itself: its other files are the gateway's.
        """
        remove(place)
        for name in (VENV, TEMPORARY):
            renew(place / name, self._user, self._folder)
        file.write_text(wanted, encoding="utf-8")
        file.chmod(0o644)

    async def _run(self, name: str, arguments: list[str], place: Path) -> None:
        kept = for_building(os.environ)
        if self._user is not None:
            kept = self._user.environment(kept)
        command = Command(
            name=name,
            arguments=arguments,
            cwd=place,
            folder=place,
            environment={**kept, "TMPDIR": str(place / TEMPORARY), **self._options.environment},
            written=(place / VENV, place / TEMPORARY),
            user=self._user,
        )
        await run(command, Limits.for_building(self._options), self._threads)


@contextlib.asynccontextmanager
async def _locked(file: Path) -> AsyncIterator[None]:
    """Hold a lock that no other process has meanwhile; it goes with this process."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as opened:
        while True:
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                await asyncio.sleep(POLL)
            else:
                break
        yield


def _dependencies(place: Path) -> str | None:
    """Return the requirements of a folder, one a line; None if it has none. Raises Failed."""
    for name in FILES:
        file = place / name
        try:
            if not file.is_file():
                continue
            with file.open("rb") as opened:
                content = opened.read(MAX_BYTES + 1)
            if len(content) > MAX_BYTES:
                raise Failed(f"{file}: has more than {MAX_BYTES} bytes")
            found = _of_project(content.decode()) if name == FILES[0] else content.decode()
        except (OSError, ValueError, RecursionError) as error:
            raise Failed(f"{file}: {error}") from None
        if found.strip():
            return found
    return None


def _of_project(text: str) -> str:
    project = tomllib.loads(text).get("project", {})
    found = project.get("dependencies", []) if isinstance(project, dict) else []
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise ValueError("project.dependencies is no list of texts")
    return "".join(f"{one}\n" for one in found)
