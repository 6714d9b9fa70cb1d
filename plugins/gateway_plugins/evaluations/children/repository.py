"""The evaluations of a folder, and the steps of their protocol: list, prepare, score.

If the folder has a `run_eval.py` of its own, that program does the steps, unchanged.
"""

import asyncio
import json
import os
import re
import stat
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from gateway import NOT_JSON
from gateway_plugins.evaluations.children.confined import OUR_PYTHON, Command, Failed, Limits, run
from gateway_plugins.evaluations.children.pythons import Pythons
from gateway_plugins.evaluations.children.removing import remove
from gateway_plugins.evaluations.children.scrubbing import scrubbed
from gateway_plugins.evaluations.children.users import PROGRAMS, User, keep, renew
from gateway_plugins.evaluations.options import Options

T = TypeVar("T")

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}")

FOREIGN = ("max_prompts", "use_english")
"""Arguments that a program of others knows for `prepare`."""

LISTING = 60.0
"""Seconds for the list."""

WORK = "work"
"""The folder that an evaluation may use in both steps, in the folder of `prepare`."""

OWN = "own"
"""The folder of one step for its result and temporary files; it goes with the step."""

MAX_LIST = 16 * 1024 * 1024
"""Bytes of the list."""


class Evaluation(msgspec.Struct, frozen=True):
    """An evaluation of the repository. `arguments`: what its `prepare` accepts; None: anything."""

    name: str
    default: bool = True
    requires_instruction_model: bool = False
    arguments: list[str] | None = None


class _Described(msgspec.Struct):
    evals: list[Evaluation]


class _Named(msgspec.Struct):
    evals: list[str]


class Prepare(msgspec.Struct, frozen=True, kw_only=True):
    """A `prepare` to run. `arguments` are JSON texts by name; `is_base`: None if not known."""

    name: str
    model: str
    arguments: Mapping[str, str]
    is_base: bool
    folder: Path


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """A `score` to run. `given` is for its standard input, `work` is the folder of `prepare`."""

    name: str
    given: Path
    folder: Path
    work: Path


class Repository:
    """The folder of the options; its steps run in `threads`, as `user`, in folders below `top`."""

    def __init__(
        self,
        options: Options,
        pythons: Pythons,
        threads: Executor,
        user: User | None,
        top: Path,
    ) -> None:
        self.path = Path(options.repository).absolute()
        self._options = options
        self._pythons = pythons
        self._threads = threads
        self._user = user
        self._top = top

    @property
    def is_foreign(self) -> bool:
        """Whether it has a program of its own."""
        return (self.path / "run_eval.py").is_file()

    def problem(self) -> str | None:
        """Return why there are no evaluations, None if there may be some."""
        if (self.path / "evals").is_dir():
            return None
        return f"{self.path / 'evals'}: there is no such folder (repository)"

    async def evaluations(self, folder: Path) -> list[Evaluation]:
        """Return all evaluations; `folder` is for files of the step. Raises Failed."""
        if self.problem() is not None:
            return []
        own = [*OUR_PYTHON, str(PROGRAMS / "run_eval.py"), "describe"]
        await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
        await self._run_ours("describe", own, folder, LISTING)
        found = _result_of(folder, "describe", _Described).evals
        found = [one for one in found if NAME.fullmatch(one.name) and ".." not in one.name]
        if not self.is_foreign:
            return found
        python = await self._pythons.python_for(self.path)
        command = [python, "run_eval.py", "list"]
        await self._run("list", command, folder, folder / WORK, seconds=LISTING)
        defaults = _result_of(folder, "list", _Named).evals
        return [
            Evaluation(one.name, one.name in defaults, one.requires_instruction_model, [*FOREIGN])
            for one in found
        ]

    async def prepare(self, step: Prepare) -> None:
        """Run `prepare`; its result is `prepare.json` or on `prepare.out`. Raises Failed."""
        options = []
        for name, text in step.arguments.items():
            options += self._option(name, text)
        if step.is_base:
            options.append("--base-model")
        arguments = ["prepare", *options, "--", step.name, step.model]
        await self._step("prepare", step.name, arguments, step.folder, step.folder / WORK)

    def _option(self, name: str, text: str) -> list[str]:
        if name == "max_prompts":
            return ["--max-prompts", text]
        if name == "use_english" and text in ("true", "false"):
            return ["--use-english"] if text == "true" else []
        return ["--arg", f"{name}={text}"]

    async def score(self, step: Score) -> None:
        """Run `score`; its result is `score.json` or on `score.out`. Raises Failed."""
        arguments = ["score", "--", step.name]
        await self._step("score", step.name, arguments, step.folder, step.work, step.given)

    async def read(self, action: str, plan: Mapping[str, object], folder: Path) -> None:
        """Read what a step returned, within the same limits as the step. Raises Failed.

        `action` and `plan` are those of `packing.py`.
        """
        program = str(PROGRAMS / "packing.py")
        arguments = [*OUR_PYTHON, program, action, json.dumps(plan)]
        await self._run_ours(action, arguments, folder)

    async def _step(
        self,
        step: str,
        name: str,
        arguments: Sequence[str],
        folder: Path,
        work: Path,
        stdin: Path | None = None,
    ) -> None:
        python = await self._pythons.python_for(self.path / "evals" / name, self.path)
        program = self.path / "run_eval.py" if self.is_foreign else PROGRAMS / "run_eval.py"
        command = [python, "-s", str(program), *arguments]
        await self._run(step, command, folder, work, stdin=stdin)

    async def _run_ours(
        self, name: str, arguments: Sequence[str], folder: Path, seconds: float | None = None
    ) -> None:
        """Run a program of this plugin, which may write into `folder`."""
        result = folder / f"{name}.json"
        result.unlink(missing_ok=True)
        command = Command(
            name=name,
            arguments=arguments,
            cwd=self.path,
            folder=folder,
            environment={**scrubbed(os.environ), "EVAL_RESULT_FILE": str(result)},
        )
        await run(command, Limits.of(self._options, seconds), self._threads)

    async def _run(
        self,
        name: str,
        arguments: Sequence[str],
        folder: Path,
        work: Path,
        *,
        seconds: float | None = None,
        stdin: Path | None = None,
    ) -> None:
        """Run code of an evaluation, which may write into `work` and a folder of its own."""
        own = folder / OWN
        await asyncio.to_thread(self._make, own, work)
        command = Command(
            name=name,
            arguments=arguments,
            cwd=self.path,
            folder=folder,
            environment=self._environment(name, own, work),
            stdin=stdin,
            written=(own, work),
            user=self._user,
        )
        try:
            await run(command, Limits.of(self._options, seconds), self._threads)
        finally:
            await asyncio.to_thread(_take, f"{name}.json", own, folder)

    def _make(self, own: Path, work: Path) -> None:
        keep(work, self._user, self._top)
        renew(own, self._user, self._top)

    def _environment(self, name: str, own: Path, work: Path) -> dict[str, str]:
        kept = scrubbed(os.environ)
        if self._user is not None:
            kept = self._user.environment(kept)
        paths = {
            "EVAL_RESULT_FILE": str(own / f"{name}.json"),
            "EVAL_WORK_DIR": str(work),
            "TMPDIR": str(own),
            "PYTHONUNBUFFERED": "1",
        }
        return {**kept, **paths, **self._options.environment}


def _take(name: str, own: Path, folder: Path) -> None:
    """Move the result of a step out of its folder, which is deleted; a link is no result."""
    (folder / name).unlink(missing_ok=True)
    with suppress(OSError):
        if stat.S_ISREG((own / name).lstat().st_mode):
            (own / name).rename(folder / name)
    remove(own)


def _result_of(folder: Path, name: str, type_: type[T]) -> T:
    """Return what a step returned: in its file, else in the last line of output. Raises Failed."""
    file, stdout = folder / f"{name}.json", folder / f"{name}.out"
    try:
        if file.exists():
            return msgspec.json.decode(_content(file), type=type_)
        lines = [line for line in _content(stdout).splitlines() if line.strip()]
        return msgspec.json.decode(lines[-1] if lines else b"", type=type_)
    except (OSError, *NOT_JSON) as error:
        raise Failed(f"run_eval.py {name}: the result cannot be read: {error}") from None


def _content(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(MAX_LIST)
