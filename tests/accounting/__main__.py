"""Runs the storm and prints what the books say: `make accounting CALLS=10000`."""

import argparse
import sys

import msgspec
import uvloop

from accounting.conduct import Plan, Report, run


def main() -> None:
    parser = argparse.ArgumentParser(prog="accounting", description=__doc__)
    parser.add_argument("--calls", type=int, default=10_000, help="how many (10000)")
    parser.add_argument("--seed", type=int, default=1, help="other calls for another seed (1)")
    parser.add_argument("--processes", type=int, default=1, help="of each gateway (1)")
    parser.add_argument("--kills", type=int, default=20, help="of processes, if several (20)")
    options = parser.parse_args()
    report = uvloop.run(run(Plan(**vars(options))))
    sys.stdout.write(text_of(report))
    sys.exit(bool(report.problems))


def text_of(report: Report) -> str:
    shown = msgspec.structs.replace(report, problems=report.problems[:50])
    whole = msgspec.json.format(msgspec.json.encode(shown), indent=2).decode()
    return (
        f"{whole}\n"
        f"{sum(report.verdicts.values())} calls in {report.seconds} s, {report.rows} rows:"
        f" {report.exact} exact to the token, {report.partial} within what was said and read\n"
        f"{report.in_flight_at_kill} in flight at the kill, {report.cut_off} without a trace:"
        f" {report.recovered} of them recovered with {report.noted} tokens, no worker asked for the"
        f" others\n{len(report.problems)} problems\n"
    )


if __name__ == "__main__":
    main()
