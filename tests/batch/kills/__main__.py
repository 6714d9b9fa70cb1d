"""Kills gateways while they run a batch, and compares all books: `make batch-kills KILLS=200`."""

import argparse
import sys

import msgspec
import uvloop
from batch.kills.conduct import Plan, Report, run


def main() -> None:
    parser = argparse.ArgumentParser(prog="kills", description=__doc__)
    parser.add_argument("--lines", type=int, default=10_000, help="of the batch (10000)")
    parser.add_argument("--kills", type=int, default=200, help="how many, at most (200)")
    parser.add_argument("--processes", type=int, default=1, help="of the gateway (1)")
    parser.add_argument("--seed", type=int, default=1, help="other moments for another one (1)")
    parser.add_argument("--longest", type=float, default=1.5, help="life in seconds (1.5)")
    report = uvloop.run(run(Plan(**vars(parser.parse_args()))))
    sys.stdout.write(text_of(report))
    sys.exit(bool(report.problems))


def text_of(report: Report) -> str:
    shown = msgspec.structs.replace(report, problems=report.problems[:50])
    whole = msgspec.json.format(msgspec.json.encode(shown), indent=2).decode()
    return (
        f"{whole}\n{report.kills} kills through {report.plan.lines} lines in {report.seconds} s:"
        f" {report.generations} generations, {report.again} of them once more because their"
        f" answers died with a gateway\n{len(report.problems)} problems\n"
    )


if __name__ == "__main__":
    main()
