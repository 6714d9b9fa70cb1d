"""The arguments of `gateway eval list|submit|show|cancel|resume|rescore`."""

import argparse
import time
from typing import TYPE_CHECKING

from gateway import ConfigError
from gateway_plugins.evaluations.cli.asking import (
    KEY,
    Asking,
    Evaluations,
    Jobs,
    Record,
    Rescored,
    Submitted,
    as_json,
)
from gateway_plugins.evaluations.cli.printing import Progress, say, scores, show, table

if TYPE_CHECKING:
    Subcommands = argparse._SubParsersAction[argparse.ArgumentParser]

URL = "http://127.0.0.1:9090"

WAIT = 1.0
"""Seconds that the gateway may wait for the end of a job before it answers."""

STATUS = f"""\
The key is in the variable {KEY}. Exit status: 0 done; 1 the job failed or was canceled, or nothing
was scored; 2 the gateway cannot be asked, or refused."""


def add_eval_commands(subcommands: "Subcommands") -> None:
    """Add the command `eval`."""
    help_ = "run evaluations through a running gateway"
    parser = subcommands.add_parser("eval", help=help_, epilog=STATUS)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_list(actions)
    _add_submit(actions)
    _add_show(actions)
    for name, run, what in (
        ("cancel", cancel, "cancel a job"),
        ("resume", resume, "run once more what failed or was canceled"),
    ):
        action = actions.add_parser(name, help=what, epilog=STATUS)
        action.add_argument("job_id", metavar="JOB")
        _finish(action, run)
    _add_rescore(actions)


def _add_list(actions: "Subcommands") -> None:
    parser = actions.add_parser("list", help="list jobs, the newest first", epilog=STATUS)
    parser.add_argument("--evals", action="store_true", help="list the evaluations instead")
    parser.add_argument("--model", metavar="NAME", help="only jobs of this model")
    parser.add_argument("--limit", type=int, default=50, metavar="N", help="jobs to list (50)")
    _finish(parser, list_jobs)


def _add_submit(actions: "Subcommands") -> None:
    parser = actions.add_parser("submit", help="submit a job and wait for it", epilog=STATUS)
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("evals", metavar="EVAL", nargs="*", help="the default ones if none")
    parser.add_argument(
        "--arg",
        dest="arguments",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="argument of the evaluations, such as max_prompts=50; repeatable",
    )
    base = parser.add_mutually_exclusive_group()
    base.add_argument("--base-model", action="store_true", default=None)
    base.add_argument("--instruct-model", dest="base_model", action="store_false")
    parser.add_argument(
        "--reasoning", action=argparse.BooleanOptionalAction, help="as the chat template says"
    )
    parser.add_argument("--priority", type=int, default=0, metavar="N", help="-100 to 100 (0)")
    parser.add_argument("--no-wait", action="store_true", help="print the id of the job only")
    _finish(parser, submit)


def _add_show(actions: "Subcommands") -> None:
    parser = actions.add_parser("show", help="print a job with its scores", epilog=STATUS)
    parser.add_argument("job_id", metavar="JOB")
    parser.add_argument("--wait", action="store_true", help="wait for its end")
    _finish(parser, show_job)


def _add_rescore(actions: "Subcommands") -> None:
    help_ = "score a job again, from the responses that are kept"
    parser = actions.add_parser("rescore", help=help_, epilog=STATUS)
    parser.add_argument("job_id", metavar="JOB")
    parser.add_argument("--eval", dest="name", metavar="NAME", help="only this evaluation")
    _finish(parser, rescore)


def _finish(parser: argparse.ArgumentParser, run: object) -> None:
    parser.add_argument("--url", default=URL, help=f"address of the gateway ({URL})")
    parser.set_defaults(run=run)


def list_jobs(arguments: argparse.Namespace) -> int:
    """Print jobs, or the evaluations of the repository."""
    with Asking(arguments.url) as gateway:
        if arguments.evals:
            _print_evaluations(gateway.get("/eval/evals", Evaluations))
            return 0
        query = {"model": arguments.model} if arguments.model else {}
        found = gateway.get("/eval/", Jobs, limit=arguments.limit, **query).evaluations
    shown = [
        (one.job_id, one.status, one.model, one.created_at, ", ".join(one.eval_status))
        for one in found
    ]
    table(("JOB", "STATUS", "MODEL", "SUBMITTED", "EVALUATIONS"), shown)
    return 0


def _print_evaluations(known: Evaluations) -> None:
    rows = [
        (one.name, "yes" if one.default else "no", _named(one.arguments)) for one in known.evals
    ]
    table(("NAME", "DEFAULT", "ARGUMENTS"), rows)


def _named(arguments: list[str] | None) -> str:
    return "any" if arguments is None else ", ".join(arguments)


def submit(arguments: argparse.Namespace) -> int:
    """Submit a job, and print its scores in the end."""
    body = {
        "model": arguments.model,
        "evals": arguments.evals or None,
        "prepare_args": dict(_pair(text) for text in arguments.arguments),
        "is_base_model": arguments.base_model,
        "reasoning": arguments.reasoning,
        "priority": arguments.priority,
    }
    with Asking(arguments.url) as gateway:
        job_id = gateway.post("/eval/submit", body, Submitted).job_id
        if arguments.no_wait:
            say(job_id)
            return 0
        return _shown(_followed(gateway, job_id))


def _pair(text: str) -> tuple[str, object]:
    name, sign, value = text.partition("=")
    if not sign:
        raise ConfigError(f"--arg {text}: expected NAME=VALUE")
    return name, as_json(value)


def show_job(arguments: argparse.Namespace) -> int:
    """Print a job."""
    with Asking(arguments.url) as gateway:
        if arguments.wait:
            return _shown(_followed(gateway, arguments.job_id))
        return _shown(gateway.get(_path(arguments.job_id), Record, brief="true"))


def _followed(gateway: Asking, job_id: str) -> Record:
    """Wait for the end of a job, and say how far it is."""
    progress = Progress()
    while True:
        begun = time.monotonic()
        wait = min(WAIT, progress.interval)
        record = gateway.get(_path(job_id), Record, brief="true", wait=str(wait))
        progress.show(record)
        if record.is_over:
            return record
        if time.monotonic() - begun < wait:  # the gateway drains, and waits for nobody
            time.sleep(wait)


def _shown(record: Record) -> int:
    show(record)
    return 1 if record.status in ("failed", "canceled") else 0


def cancel(arguments: argparse.Namespace) -> int:
    """Cancel a job."""
    with Asking(arguments.url) as gateway:
        show(gateway.delete(_path(arguments.job_id), Record))
    return 0


def resume(arguments: argparse.Namespace) -> int:
    """Run once more what failed, and wait for it."""
    with Asking(arguments.url) as gateway:
        gateway.post(f"{_path(arguments.job_id)}/resume", {}, Record)
        return _shown(_followed(gateway, arguments.job_id))


def rescore(arguments: argparse.Namespace) -> int:
    """Score a job again, and print its scores."""
    body = {"job_id": arguments.job_id, "eval_name": arguments.name}
    with Asking(arguments.url) as gateway:
        found = gateway.post("/eval/rescore", body, Rescored, None)
    for name, metrics in found.metrics.items():
        say(f"{name}:")
        scores(metrics)
    for name, error in found.errors.items():
        say(f"{name}: {error}")
    return 0 if found.metrics and not found.errors else 1


def _path(job_id: str) -> str:
    safe = "".join(one for one in job_id if one.isalnum() or one in "_-")
    return f"/eval/{safe}"
