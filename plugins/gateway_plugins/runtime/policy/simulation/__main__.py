"""`python -m gateway_plugins.runtime.policy.simulation`: a table of weeks, a picture of a day."""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from gateway_plugins.runtime.policy.simulation.box import Box
from gateway_plugins.runtime.policy.simulation.chart import chart_of
from gateway_plugins.runtime.policy.simulation.load import DAY, SCENARIOS, load_of
from gateway_plugins.runtime.policy.simulation.weeks import OURS, REPLACED, System, table

TITLES = ((REPLACED, "The system that is replaced"), (OURS, "This gateway"))


def main(arguments: list[str] | None = None) -> None:
    parsed = _parser().parse_args(arguments)
    parsed.run(parsed)


def day(scenario: str, seed: int) -> str:
    """The first day of a week, a Monday, as SVG."""
    return chart_of([(title, _day_of(system, scenario, seed)) for system, title in TITLES])


def _day_of(system: System, scenario: str, seed: int) -> Box:
    found = next(one for one in SCENARIOS if one.name == scenario)
    box = system.box(load_of(found, seed, DAY))
    box.run()
    return box


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="simulation", description=__doc__)
    commands = parser.add_subparsers(required=True)
    names = [one.name for one in SCENARIOS]
    weeks = commands.add_parser("weeks", help="print the table of simulated weeks")
    weeks.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    weeks.add_argument("--loads", nargs="+", choices=names, default=names)
    weeks.set_defaults(run=_weeks)
    picture = commands.add_parser("day", help="write the picture of a simulated day")
    picture.add_argument("file", type=Path)
    picture.add_argument("--seed", type=int, default=1)
    picture.add_argument("--load", choices=names, default="usual")
    picture.set_defaults(run=_day)
    return parser


def _weeks(parsed: Namespace) -> None:
    sys.stdout.write(table(parsed.seeds, names=parsed.loads))


def _day(parsed: Namespace) -> None:
    parsed.file.write_text(day(parsed.load, parsed.seed))


if __name__ == "__main__":
    main()
