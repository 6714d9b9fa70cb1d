"""The commands and configurations of docs/operate.md work as printed."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.manual import Manual, running, shell
from support.paths import CONFIGS, DOCS

OPERATE = Manual(DOCS / "operate.md")


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running("simulate", cwd=tmp_path_factory.mktemp("worker")) as url:
        yield url


def call(url: str, cwd: Path, **headers: str) -> str:
    """Make a call with curl; returns the body of the response."""
    headers = {"content-type": "application/json", **headers}
    named = " ".join(f"-H '{name}: {value}'" for name, value in headers.items())
    body = json.dumps({"model": "sim", "messages": [{"role": "user", "content": "Hello"}]})
    return shell(f"curl -sS {url}/v1/chat/completions {named} -d '{body}'", cwd)


def test_operate_page_serve_command_forwards_to_its_worker(worker: str, tmp_path: Path) -> None:
    with running(*OPERATE.arguments("--plugin access_log", worker), cwd=tmp_path) as url:
        assert json.loads(call(url, tmp_path))["choices"]


def test_operate_page_config_file_passes_config_check(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(OPERATE.block("yaml", "gpu-0"))
    check, plugins, serve = OPERATE.block("sh", "config check").splitlines()
    assert "2 workers, 2 plugins" in shell(check, tmp_path)
    assert "access_log" in shell(plugins, tmp_path)
    assert serve == "gateway serve --config gateway.yaml"


def test_operate_page_fleet_commands_find_their_routes(worker: str, tmp_path: Path) -> None:
    text = (CONFIGS / "routing.yaml").read_text()
    (tmp_path / "gateway.yaml").write_text(text.replace("http://gpu-0:8000", worker))
    with running("serve", "--config", "gateway.yaml", cwd=tmp_path) as url:
        for block in ("admin/queue", "admin/reload"):
            for line in OPERATE.block("sh", block, url).splitlines():
                line = line.replace("gpu-0:8000", worker.removeprefix("http://"))
                assert "error" not in json.loads(shell(f"{line} -sS", tmp_path))


def test_operate_page_commands_create_use_bill_and_revoke_a_key(
    worker: str, tmp_path: Path
) -> None:
    config = OPERATE.block("yaml", "auth:").replace("http://127.0.0.1:8000", worker)
    (tmp_path / "gateway.yaml").write_text(config)
    key = shell(OPERATE.block("sh", "keys create"), tmp_path).strip()
    with running("serve", "--config", "gateway.yaml", cwd=tmp_path) as url:
        assert json.loads(call(url, tmp_path))["error"]["code"] == "invalid_api_key"
        call(url, tmp_path, authorization=f"Bearer {key}")
        usage = shell(OPERATE.block("sh", "/monitor/key_usage", url), tmp_path, KEY=key)
    assert usage.count('"requests":1') >= 2
    assert "me" in shell(OPERATE.block("sh", "usage verify"), tmp_path)
    assert json.loads((tmp_path / "keys.json").read_text())["keys"][0]["revoked"]


def test_operate_page_backup_of_a_running_database_is_whole(worker: str, tmp_path: Path) -> None:
    [_, statement, _] = OPERATE.block("sh", "VACUUM").split('"')
    serve = ["serve", "--worker", f"{worker}/v1", "--plugin", "trace_capture"]
    with running(*serve, cwd=tmp_path) as url:
        call(url, tmp_path)
        with closing(sqlite3.connect(tmp_path / "gateway.db")) as db:
            db.execute(statement.replace("backup.db", str(tmp_path / "backup.db")))
    with closing(sqlite3.connect(tmp_path / "backup.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("SELECT count(*) FROM traces").fetchone() == (1,)
