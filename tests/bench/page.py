"""The page that holds the last run: its tables and its chart are put in place of those before."""

from pathlib import Path

from bench.chart import svg_of
from bench.report import Report
from bench.table import markdown_of
from gateway import ConfigError

BEGIN = "<!-- what follows is written by `make bench` -->"
END = "<!-- up to here -->"


def write_page(report: Report, page: Path) -> None:
    """The chart goes beside it. Raises ConfigError where the page has no place for the tables."""
    chart = page.with_suffix(".svg")
    block = f"\n![What a call and an event cost]({chart.name})\n\n{markdown_of(report)}\n"
    page.write_text(replaced(page.read_text("utf-8"), block, str(page)), "utf-8")
    chart.write_text(svg_of(report), "utf-8")


def replaced(text: str, block: str, page: str) -> str:
    """The text with the block between the marks, whatever was there before."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError(f"{page}: has no lines {BEGIN!r} and {END!r}, between which tables go")
    return f"{before}{BEGIN}\n{block}{END}{after}"
