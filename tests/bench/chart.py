"""A chart of what calls and events cost, as SVG written by hand."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape, quoteattr

from bench.report import Report
from bench.rows import PLAIN, STREAM
from bench.table import number

WIDTH, NAMES, FIGURES = 760, 220, 80
LINE, BAR, HEAD = 26, 16, 44
MOST_BARS, MOST_TICKS = 20, 10

STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f }
.head { font-weight: 600 }
.bar { fill: #8c959f }
.ours { fill: #0969da }
.tick { stroke: #d0d7de }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .bar { fill: #6e7681 }
  .ours { fill: #4493f8 }
  .tick { stroke: #3d444d }
}
"""


class Bar(NamedTuple):
    name: str
    value: float


def svg_of(report: Report) -> str:
    """A panel for calls and one for events; each has its own logarithmic scale."""
    panels = (
        ("CPU for a plain call, µs (log scale)", bars(report, PLAIN.name, "per_call")),
        ("CPU for an event of a stream, µs (log scale)", bars(report, STREAM.name, "per_event")),
    )
    parts: list[str] = []
    top = 0
    for title, found in panels:
        if found:
            parts += _panel(title, found, top)
            top += HEAD + LINE * len(found) + LINE // 2
    size = f'width="{WIDTH}" height="{top}" viewBox="0 0 {WIDTH} {top}"'
    title = "<title>What a gateway's work costs</title>"
    body = "".join(f"{part}\n" for part in parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {size}>\n{title}\n'
        f"<style>{STYLE}</style>\n{body}</svg>\n"
    )


def bars(report: Report, work: str, figure: str) -> list[Bar]:
    """The cheapest first; not those of scale, which are all of one gateway."""
    found = report.found
    names = [one.system for one in found.readings if one.work == work]
    shown = [name for name in names if not any(part in name for part in SCALES)]
    values = ((name, found.median(name, work, figure)) for name in shown)
    known = [Bar(name, value) for name, value in values if value is not None and _shows(value)]
    return sorted(known, key=lambda bar: bar.value)[:MOST_BARS]


SCALES = (" sessions", " keys", " traces", " workers")


def _shows(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _panel(title: str, found: Sequence[Bar], top: int) -> Iterator[str]:
    low = math.floor(math.log10(found[0].value))
    high = max(low + 1, math.ceil(math.log10(found[-1].value)))
    scale = (WIDTH - NAMES - FIGURES) / (high - low)
    bottom = top + HEAD + LINE * len(found)
    yield f'<text class="head" x="0" y="{top + 22}">{escape(title)}</text>'
    for power in range(low, high + 1, 1 + (high - low) // MOST_TICKS):
        x = NAMES + (power - low) * scale
        yield f'<path class="tick" d="M{x:.1f} {top + HEAD - 6}V{bottom}"/>'
    for place, bar in enumerate(found):
        y = top + HEAD + LINE * place
        long = max(1.0, (math.log10(bar.value) - low) * scale)
        kind = "bar ours" if bar.name.startswith("gateway") else "bar"
        yield f'<text x="{NAMES - 8}" y="{y + 13}" text-anchor="end">{escape(bar.name)}</text>'
        yield (
            f'<rect class={quoteattr(kind)} x="{NAMES}" y="{y}" width="{long:.1f}"'
            f' height="{BAR}" rx="2"/>'
        )
        yield f'<text x="{NAMES + long + 6:.1f}" y="{y + 13}">{number(bar.value)}</text>'
