"""Lists, prepares and scores the evaluations of a folder: `evals/{name}/eval.py`.

    run_eval.py list [--base-model]
    run_eval.py describe
    run_eval.py prepare NAME MODEL [--max-prompts N] [--use-english] [--base-model] [--arg K=V]
    run_eval.py score NAME < results.json

The folder is the working directory. The result is one JSON object, in the file that the variable
EVAL_RESULT_FILE names, else on standard output. Exit status 0, or 1 with the reason on standard
error. Arguments that are unknown are named there and ignored.
"""

import argparse
import ast
import importlib.util
import inspect
import json
import os
import sys
import tomllib
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

EVALS = Path("evals")
FILES = ("eval.py", "__init__.py")
DEFAULT = ["example_eval"]
"""Evaluations of a folder that has no `config.json`."""

Result = dict[str, Any]


class Mistake(Exception):
    """What is asked for is not possible; the message says why."""


def main() -> int:
    """Do what the arguments say."""
    arguments, unknown = _parser().parse_known_args()
    if unknown:
        sys.stderr.write(f"ignored: {' '.join(unknown)}\n")
    stdout, sys.stdout = sys.stdout, sys.stderr  # what an evaluation prints is no result
    try:
        result = arguments.run(arguments)
    except Mistake as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except Exception:  # noqa: BLE001  # what a user wrote raises anything
        traceback.print_exc()
        return 1
    file = os.environ.get("EVAL_RESULT_FILE")
    if file:
        Path(file).write_text(json.dumps(result), encoding="utf-8")
    else:
        stdout.write(f"{json.dumps(result)}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="run_eval.py")
    actions = parser.add_subparsers(required=True)
    listing = actions.add_parser("list")
    listing.add_argument("--base-model", action="store_true")
    listing.set_defaults(run=list_names)
    actions.add_parser("describe").set_defaults(run=describe)
    preparing = actions.add_parser("prepare")
    preparing.add_argument("name")
    preparing.add_argument("model")
    preparing.add_argument("--max-prompts", type=int)
    preparing.add_argument("--use-english", action="store_true", default=None)
    preparing.add_argument("--base-model", action="store_true", default=None)
    preparing.add_argument("--arg", action="append", default=[], metavar="K=V")
    preparing.set_defaults(run=prepare)
    scoring = actions.add_parser("score")
    scoring.add_argument("name")
    scoring.set_defaults(run=score)
    return parser


def list_names(arguments: argparse.Namespace) -> Result:
    """Return the evaluations that run if nobody names any."""
    names = [name for name in _defaults() if _code_of(name) is not None]
    if arguments.base_model:
        names = [name for name in names if not _needs_instructions(name)]
    return {"evals": names}


def describe(_: argparse.Namespace) -> Result:
    """Return every evaluation that has code, with the arguments that it accepts."""
    places = sorted(EVALS.iterdir()) if EVALS.is_dir() else []
    defaults = _defaults()
    return {"evals": [_about(place.name, defaults) for place in places if _code_of(place.name)]}


def _about(name: str, defaults: list[str]) -> Result:
    accepted = _accepted(name)
    return {
        "name": name,
        "default": name in defaults,
        "requires_instruction_model": _needs_instructions(name),
        "arguments": accepted,
    }


def prepare(arguments: argparse.Namespace) -> Result:
    """Return what `prepare_requests` of the evaluation returns."""
    module = _load(arguments.name)
    function = _function(module, "prepare_requests")
    given = {
        "max_prompts": arguments.max_prompts,
        "use_english": arguments.use_english,
        "is_base_model": arguments.base_model,
    }
    wanted = {name: value for name, value in given.items() if value is not None}
    result = function(arguments.model, **_fitting(function, wanted, dict(_pairs(arguments.arg))))
    if not isinstance(result, dict) or not isinstance(result.get("requests"), list):
        raise Mistake("prepare_requests returned no object with a list `requests`")
    metadata = dict(result.get("metadata") or {})
    most = _settings(arguments.name).get("max_concurrency")
    if most is not None:
        metadata["max_concurrency"] = most
    return {**result, "metadata": metadata}


def score(arguments: argparse.Namespace) -> Result:
    """Return what `score_results` of the evaluation returns."""
    given = json.loads(sys.stdin.read())
    for name in ("requests", "responses"):
        if not isinstance(given.get(name), list):
            raise Mistake(f"standard input has no list `{name}`")
    function = _function(_load(arguments.name), "score_results")
    result = function(given["requests"], given["responses"], given.get("metadata") or {})
    if not isinstance(result, dict):
        raise Mistake("score_results returned no object")
    return {"metrics": {}, "details": {}, **result}


def _fitting(function: Callable[..., Any], offered: Result, demanded: Result) -> Result:
    """Return the arguments for a function: of those offered the ones that it knows."""
    names, takes_all = _parameters(function)
    strange = sorted(name for name in demanded if name not in names and not takes_all)
    if strange:
        raise Mistake(f"prepare_requests does not accept {', '.join(strange)}")
    return {**{k: v for k, v in offered.items() if takes_all or k in names}, **demanded}


def _parameters(function: Callable[..., Any]) -> tuple[list[str], bool]:
    parameters = inspect.signature(function).parameters.values()
    takes_all = any(one.kind is one.VAR_KEYWORD for one in parameters)
    return [one.name for one in parameters], takes_all


def _pairs(arguments: list[str]) -> Iterator[tuple[str, Any]]:
    for text in arguments:
        name, sign, value = text.partition("=")
        if not sign:
            raise Mistake(f"--arg {text!r} is not K=V")
        try:
            yield name, json.loads(value)
        except ValueError:
            yield name, value


def _defaults() -> list[str]:
    try:
        config = json.loads(Path("config.json").read_text(encoding="utf-8"))
    except OSError:
        return DEFAULT
    except ValueError as error:
        raise Mistake(f"config.json: {error}") from None
    names = config.get("default_evals", DEFAULT) if isinstance(config, dict) else None
    if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
        raise Mistake("config.json: default_evals is no list of names")
    return names


def _code_of(name: str) -> Path | None:
    if name != Path(name).name or name in ("", ".", ".."):
        return None
    return next((file for one in FILES if (file := EVALS / name / one).is_file()), None)


def _settings(name: str) -> dict[str, Any]:
    """Return the section [eval] of the evaluation's eval.toml."""
    try:
        found = tomllib.loads((EVALS / name / "eval.toml").read_text(encoding="utf-8"))
    except OSError:
        return {}
    except ValueError as error:
        raise Mistake(f"{name}/eval.toml: {error}") from None
    section = found.get("eval", {})
    return section if isinstance(section, dict) else {}


def _needs_instructions(name: str) -> bool:
    return _settings(name).get("requires_instruction_model") is True


def _accepted(name: str) -> list[str] | None:
    """Return the names that `prepare_requests` accepts, read without running it; None: any."""
    file = _code_of(name)
    try:
        tree = ast.parse(file.read_text(encoding="utf-8") if file else "")
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == "prepare_requests":
            found = [one.arg for one in [*node.args.posonlyargs, *node.args.args]][1:]
            found += [one.arg for one in node.args.kwonlyargs]
            return None if node.args.kwarg else found
    return None


def _load(name: str) -> ModuleType:
    file = _code_of(name)
    if file is None:
        raise Mistake(f"there is no evaluation {name!r} with an eval.py or __init__.py in {EVALS}/")
    sys.path[:0] = [str(Path.cwd()), str(file.parent.resolve())]
    module_name = f"_evaluation_{name}"
    within = [str(file.parent.resolve())] if file.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(
        module_name, file.resolve(), submodule_search_locations=within
    )
    if spec is None or spec.loader is None:
        raise Mistake(f"{file} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    return module


def _function(module: ModuleType, name: str) -> Callable[..., Any]:
    function = getattr(module, name, None)
    if not callable(function):
        raise Mistake(f"{module.__file__} has no function {name}")
    return function  # type: ignore[no-any-return]  # what a user wrote returns anything


if __name__ == "__main__":
    sys.exit(main())
