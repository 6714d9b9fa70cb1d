"""`gateway eval ...` against a running gateway."""

import argparse
import asyncio
from pathlib import Path

import pytest
from gateway_plugins.evaluations.cli.commands import add_eval_commands
from support.evaluations.repositories import Folder, started
from support.gateways.batch_doors import Badges

from gateway import ConfigError
from gateway.testing import GatewayFor, Live

BROKEN = "raise RuntimeError('no such data')"


async def gateway_eval(live: Live, *arguments: str) -> int:
    parser = argparse.ArgumentParser()
    add_eval_commands(parser.add_subparsers())
    parsed = parser.parse_args(["eval", *arguments, "--url", str(live.client.base_url)])
    return int(await asyncio.to_thread(parsed.run, parsed))


async def test_commands_submit_show_and_score_again(
    gateway_for: GatewayFor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = Folder(tmp_path).add("one").add("broken", BROKEN)
    live = await started(gateway_for, folder, Badges)
    monkeypatch.setenv("GATEWAY_API_KEY", "none")
    with pytest.raises(ConfigError, match="403: this needs a key with the scope `eval`"):
        await gateway_eval(live, "list")
    monkeypatch.setattr("gateway_plugins.evaluations.cli.asking.KEY", "BADGE")
    monkeypatch.setenv("BADGE", "eval")  # the badge is "Bearer eval"
    assert await gateway_eval(live, "list", "--evals") == 0
    assert capsys.readouterr().out.splitlines() == [
        "NAME    DEFAULT  ARGUMENTS",
        "broken  no       any",
        "one     no       max_prompts",
    ]
    assert await gateway_eval(live, "submit", "sim", "one", "--arg", "max_prompts=2") == 0
    out, err = capsys.readouterr()
    assert "one: completed, 2 of 2\n  share  1\n" in out
    assert "2 of 2 requests: completed" in err
    job_id = out.split()[0]
    assert await gateway_eval(live, "rescore", job_id) == 0
    assert capsys.readouterr().out == "one:\n  share  1\n"
    assert await gateway_eval(live, "submit", "sim", "broken") == 1
    assert "RuntimeError: no such data" in capsys.readouterr().out
    assert await gateway_eval(live, "list", "--model", "sim", "--limit", "5") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["STATUS", "failed", "completed"]
    assert await gateway_eval(live, "show", job_id) == 0
    for arguments, problem in (
        (("show", "eval_none"), "404: there is no such evaluation job"),
        (("submit", "sim", "../x"), "400: `evals` names '../x'"),
        (("submit", "sim", "one", "--arg", "x"), "expected NAME=VALUE"),
        (("cancel", job_id), "409: the job is over"),
        (("resume", job_id), "409: the job is completed"),
    ):
        with pytest.raises(ConfigError, match=problem):
            await gateway_eval(live, *arguments)


async def test_gateway_that_is_not_there_is_named(
    gateway_for: GatewayFor, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    add_eval_commands(parser.add_subparsers())
    for url in ("http://127.0.0.1:1", "ftp://x", "http://["):
        parsed = parser.parse_args(["eval", "list", "--url", url])
        with pytest.raises(ConfigError, match=r"x|127|\["):
            parsed.run(parsed)
