"""run_eval.py by itself, as a table: arguments, and what it prints."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gateway_plugins.evaluations.children.users import PROGRAMS
from support.evaluations.repositories import PLAIN, Folder

NOISY = """
import sys
print("loading")

def prepare_requests(model_name, max_prompts=2, use_english=None, is_base_model=None):
    print('{"requests": "not me"}')
    seen = [model_name, max_prompts, use_english, is_base_model]
    return {"requests": [{"prompt": "a", "_own": seen}] * max_prompts, "metadata": {"a": 1}}

def score_results(requests, responses, metadata):
    print("scoring")
    return {"metrics": {"n": len(requests), "bad": float("nan")}, "details": metadata}
"""

PACKAGE = """
from helper import KNOWN

def prepare_requests(model_name):
    return {"requests": [{"prompt": KNOWN}]}

def score_results(requests, responses, metadata):
    return {"metrics": {}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = Folder(tmp_path).add("noisy", NOISY, eval_toml="[eval]\nmax_concurrency = 3\n")
    made.add("plain", PLAIN, eval_toml="[eval]\nrequires_instruction_model = true\n")
    made.add("whole", PACKAGE, helper_py="KNOWN = 'from a module beside it'\n")
    (tmp_path / "evals/whole/eval.py").rename(tmp_path / "evals/whole/__init__.py")
    made.defaults("noisy", "plain", "gone")
    return tmp_path


def call(
    folder: Path, *arguments: str, stdin: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(PROGRAMS / "run_eval.py"), *arguments],
        cwd=folder,
        input=stdin,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
    )


def result(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def prepared(*seen: object, count: int = 2) -> dict[str, object]:
    requests = [{"prompt": "a", "_own": list(seen)}] * count
    return {"requests": requests, "metadata": {"a": 1, "max_concurrency": 3}}


GIVEN = json.dumps({"requests": [{}], "responses": [{}], "metadata": {"b": 2}})


@pytest.mark.parametrize(
    ("arguments", "stdin", "expected"),
    [
        (["list"], "", {"evals": ["noisy", "plain"]}),
        (["list", "--base-model"], "", {"evals": ["noisy"]}),
        (["list", "--strange"], "", {"evals": ["noisy", "plain"]}),
        (["prepare", "noisy", "m"], "", prepared("m", 2, None, None)),
        (
            ["prepare", "noisy", "m", "--max-prompts", "1"],
            "",
            prepared("m", 1, None, None, count=1),
        ),
        (["prepare", "--use-english", "--", "noisy", "-m"], "", prepared("-m", 2, True, None)),
        (["prepare", "noisy", "m", "--base-model"], "", prepared("m", 2, None, True)),
        (["prepare", "plain", "m", "--max-prompts", "0"], "", {"requests": [], "metadata": {}}),
        (
            ["prepare", "whole", "m", "--max-prompts", "7"],
            "",
            {"requests": [{"prompt": "from a module beside it"}], "metadata": {}},
        ),
        (["score", "noisy"], GIVEN, {"metrics": {"n": 1, "bad": None}, "details": {"b": 2}}),
        (["score", "whole"], GIVEN, {"metrics": {}, "details": {}}),
    ],
)
def test_calls_of_the_protocol_print_one_object(
    folder: Path, arguments: list[str], stdin: str, expected: dict[str, object]
) -> None:
    done = call(folder, *arguments, stdin=stdin)
    found = json.loads(done.stdout.replace("NaN", "null")) if done.returncode == 0 else done.stderr
    assert found == expected
    assert ("--strange" in done.stderr) == ("--strange" in arguments)


def test_result_is_in_the_file_that_the_variable_names(folder: Path) -> None:
    file = folder / "here.json"
    done = call(folder, "prepare", "noisy", "m", EVAL_RESULT_FILE=str(file))
    assert (done.returncode, done.stdout) == (0, "")
    assert "loading" in done.stderr
    assert json.loads(file.read_text()) == prepared("m", 2, None, None)


@pytest.mark.parametrize(
    ("arguments", "stdin", "reason"),
    [
        (["prepare", "gone", "m"], "", "there is no evaluation 'gone'"),
        (["prepare", "../evals/noisy", "m"], "", "there is no evaluation"),
        (["prepare", "..", "m"], "", "there is no evaluation"),
        (["prepare", "whole", "m", "--arg", "k=1"], "", "does not accept k"),
        (["prepare", "noisy", "m", "--arg", "k"], "", "is not K=V"),
        (["prepare", "noisy", "m", "--max-prompts", "-5"], "", None),
        (["score", "noisy"], "{}", "no list `requests`"),
        (["score", "noisy"], "no JSON", "JSONDecodeError"),
    ],
)
def test_calls_that_are_not_possible_say_why(
    folder: Path, arguments: list[str], stdin: str, reason: str | None
) -> None:
    done = call(folder, *arguments, stdin=stdin)
    if reason is not None:
        assert (done.returncode, done.stdout) == (1, "")
        assert reason in done.stderr


def test_folder_without_a_configuration_has_the_default_of_the_protocol(tmp_path: Path) -> None:
    Folder(tmp_path).add("example_eval").add("other")
    assert result(call(tmp_path, "list")) == {"evals": ["example_eval"]}
    (tmp_path / "config.json").write_text("{")
    assert "config.json" in call(tmp_path, "list").stderr
