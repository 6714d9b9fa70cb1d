"""Evaluations with the rights of a user of their own, which needs a gateway that runs as root."""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway_plugins.evaluations.children.users import PROGRAMS, user_named
from support.evaluations.repositories import Folder, ended, started, submit

from gateway import ConfigError
from gateway.testing import GatewayFor

USER = "nobody"

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def usable(python: str) -> bool:
    code = f"import os, tomllib; os.scandir({str(PROGRAMS)!r})"
    try:
        return not subprocess.run([python, "-I", "-c", code], user=USER, cwd="/").returncode
    except OSError:
        return False


@pytest.fixture
def python() -> str:
    """An interpreter that the user can start."""
    for found in (sys.executable, "/usr/bin/python3"):
        if usable(found):
            return found
    pytest.skip(f"{USER} can start no Python of this machine, or cannot read this project")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that everybody can read."""
    made = Path(tempfile.mkdtemp())
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


RIGHTS = """
import os, pathlib

WORK = pathlib.Path(os.environ["EVAL_WORK_DIR"])

def denied(act, *given):
    try:
        act(*given)
    except PermissionError:
        return True
    return False

def prepare_requests(model_name):
    (WORK / "kept").write_text("kept")
    (pathlib.Path(os.environ["TMPDIR"]) / "temporary").touch()
    open("/dev/stderr", "a").write("said")
    seen = {
        "ids": [os.getresuid(), os.getresgid(), os.getgroups()],
        "denied": [
            denied(open, "SECRET"), denied(os.setuid, 0), denied(open, WORK.parent / "x", "w"),
        ],
        "names": [os.environ["HOME"], os.environ["USER"]],
    }
    return {"requests": [{"prompt": "a"}], "metadata": seen}

def score_results(requests, responses, metadata):
    kept = (WORK / "kept").read_text() == "kept"
    return {"metrics": {"kept": int(kept)}, "details": metadata}
"""

THIEF = """
import os

def prepare_requests(model_name):
    os.symlink("SECRET", os.environ["EVAL_RESULT_FILE"])
    os._exit(0)

def score_results(requests, responses, metadata):
    return {"metrics": {}}
"""


@as_root
async def test_fault_11_2_code_has_the_rights_of_the_user_of_the_options(
    gateway_for: GatewayFor, place: Path, python: str
) -> None:
    secret = place / "secret"
    secret.write_text('{"requests": [{"prompt": "secret"}]}')
    secret.chmod(0o600)
    folder = Folder(place / "repository")
    folder.add("rights", RIGHTS.replace("SECRET", str(secret)))
    folder.add("thief", THIEF.replace("SECRET", str(secret)))
    files = place / "files"
    before = os.umask(0o077)
    try:
        live = await started(gateway_for, folder, folder=str(files), user=USER, python=python)
        record = await ended(live, await submit(live, "rights", "thief"))
    finally:
        os.umask(before)
    status = record["eval_status"]["rights"]
    assert status["status"] == "completed", status
    assert status["results"] == {"kept": 1}
    user = pwd.getpwnam(USER)
    groups = os.getgrouplist(USER, user.pw_gid)
    details = status["details"]
    assert details["ids"] == [[user.pw_uid] * 3, [user.pw_gid] * 3, groups]
    assert details["denied"] == [True, True, True]
    assert details["names"] == [user.pw_dir, USER]
    assert "no JSON object" in record["eval_status"]["thief"]["error"]


@as_root
@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_environment_belongs_to_the_user(
    gateway_for: GatewayFor, place: Path, python: str
) -> None:
    code = """
    import os, sys

    def prepare_requests(model_name):
        assert sys.prefix != sys.base_prefix and os.access(sys.prefix, os.W_OK)
        assert not os.access(os.path.dirname(sys.prefix), os.W_OK)
        return {"requests": [{"prompt": "a"}]}

    def score_results(requests, responses, metadata):
        return {"metrics": {"n": 1}}
    """
    folder = Folder(place / "repository").add("one", code, requirements_txt="# nothing\n")
    files = str(place / "files")
    live = await started(gateway_for, folder, folder=files, user=USER, python=python)
    record = await ended(live, await submit(live, "one"))
    assert record["eval_status"]["one"]["status"] == "completed", record


@as_root
@pytest.mark.parametrize(
    ("user", "reason"),
    [
        ("no-such-user", "there is no user 'no-such-user'"),
        ("root", "`user` is root"),
        (USER, f"the user '{USER}' .* cannot use .*repository"),
    ],
)
async def test_gateway_does_not_start_with_a_user_that_cannot_do_the_work(
    gateway_for: GatewayFor, place: Path, python: str, user: str, reason: str
) -> None:
    folder = Folder(place / "repository").add("one")
    (place / "repository").chmod(0o700)
    with pytest.raises(ConfigError, match=reason):
        await started(gateway_for, folder, folder=str(place / "files"), user=user, python=python)


@as_root
async def test_gateway_does_not_start_if_the_user_cannot_start_the_interpreter(
    gateway_for: GatewayFor, place: Path
) -> None:
    folder = Folder(place / "repository").add("one")
    python = place / "python"
    python.write_text("")
    files = str(place / "files")
    with pytest.raises(ConfigError, match=r"cannot use .*/python: Permission denied \(python\)"):
        await started(gateway_for, folder, folder=files, user=USER, python=str(python))


def test_gateway_that_is_not_root_can_start_nothing_as_another_user() -> None:
    before = os.geteuid()
    if before == 0:
        os.seteuid(pwd.getpwnam(USER).pw_uid)
    try:
        with pytest.raises(ConfigError, match="only root can start processes of another user"):
            user_named(USER)
    finally:
        os.seteuid(before)
