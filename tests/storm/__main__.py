"""Runs a storm and prints how it went: `make storm MINUTES=10`."""

import argparse
import sys

import msgspec
import uvloop

from storm.conduct import Plan, Report, run


def main() -> None:
    parser = argparse.ArgumentParser(prog="storm", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long it lasts (10)")
    parser.add_argument("--rate", type=float, default=500.0, help="calls a second (500)")
    parser.add_argument("--seed", type=int, default=1, help="another storm for another seed (1)")
    options = parser.parse_args()
    plan = Plan(storm=options.minutes * 60, rate=options.rate, seed=options.seed)
    report = uvloop.run(run(plan))
    sys.stdout.write(text_of(report))
    sys.exit(bool(report.problems))


def text_of(report: Report) -> str:
    whole = msgspec.json.format(msgspec.json.encode(report), indent=2).decode()
    found = "".join(f"PROBLEM {problem}\n" for problem in report.problems[:50])
    return (
        f"{whole}\n"
        f"{report.calls} calls in {report.plan.storm / 60:g} min of storm;"
        f" {sum(report.ejections.values())} ejections; all up {report.recovered_after} s after\n"
        f"p99 at steady workers: {report.p99['calm']} ms in calm, {report.p99['storm']} ms in"
        f" storm, {report.ratio} times; own lag {report.lag['calm']} and {report.lag['storm']} ms\n"
        f"{found}{len(report.problems)} problems\n"
    )


if __name__ == "__main__":
    main()
