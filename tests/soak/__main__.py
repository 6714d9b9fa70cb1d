"""Runs a soak and prints how it went: `make soak MINUTES=60`."""

import argparse
import sys
from pathlib import Path

import msgspec
import uvloop

from soak.conduct import Report, run
from soak.plan import Plan


def main() -> None:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long it lasts (10)")
    parser.add_argument("--seed", type=int, default=1, help="another soak for another seed (1)")
    parser.add_argument(
        "--rate", type=float, default=0.0, help="calls a second (as many as keep a core busy)"
    )
    parser.add_argument("--report", type=Path, default=Path("soak-report.json"))
    parser.add_argument("--samples", type=Path, help="file to add each sample to")
    options = parser.parse_args()
    plan = Plan(seconds=options.minutes * 60, rate=options.rate, seed=options.seed)
    report = uvloop.run(run(plan, options.samples))
    options.report.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2))
    sys.stdout.write(text_of(report))
    sys.exit(bool(report.problems))


def text_of(report: Report) -> str:
    whole = msgspec.json.format(msgspec.json.encode(report), indent=2).decode()
    checks = "".join(
        f"{'ok     ' if one.held else 'FAILED '} {one.name}: {one.figures}\n"
        for one in report.checks
    )
    found = "".join(f"PROBLEM {problem}\n" for problem in report.problems[:50])
    return (
        f"{whole}\n{checks}"
        f"{report.tally.compared} calls, {report.calls_a_second:g} a second, in"
        f" {report.seconds / 60:.1f} min; the gateway took {report.busy:.0%} of a core\n"
        f"{found}{len(report.problems)} problems\n"
    )


if __name__ == "__main__":
    main()
