"""A day of both systems as a timeline: SVG, written by hand."""

from collections.abc import Iterable, Iterator, Sequence
from xml.sax.saxutils import escape

from gateway_plugins.runtime.policy.simulation.box import Box, Span
from gateway_plugins.runtime.policy.simulation.load import DAY, HOUR, LOADS, REALTIME

WIDTH, LEFT, RIGHT = 980, 112, 968
HEAD, PANEL, BAND, PLOT, GAP = 46, 214, 30, 52, 12
STATES = ("working", "idle", "loading", "draining")
LONGEST_WAIT = 240.0
COLUMN = 2
"""Width of a column of the plot of the queue."""

COLOURS = {
    REALTIME: ("#0969da", "#4493f8"),
    "eval-a": ("#bf8700", "#d29922"),
    "eval-b": ("#8250df", "#a371f7"),
    "eval-c": ("#1a7f37", "#3fb950"),
    "too-large": ("#cf222e", "#f85149"),
}

STYLE = """
text { font: 12px system-ui, sans-serif; fill: #24292f }
.head { font-weight: 600; font-size: 13px }
.small { font-size: 11px; fill: #57606a }
.tick { stroke: #d0d7de }
.wait { stroke: #cf222e; stroke-width: 1.5 }
.depth { fill: #8c959f }
.loading { opacity: .35 }
.idle { opacity: .7 }
.draining { opacity: .15 }
"""
DARK = """
text { fill: #e6edf3 }
.small { fill: #9198a1 }
.tick { stroke: #3d444d }
.wait { stroke: #f85149 }
.depth { fill: #6e7681 }
"""


def chart_of(panels: Sequence[tuple[str, Box]], end: float = DAY) -> str:
    """One panel for each system, with its title, until `end`."""
    height = HEAD + PANEL * len(panels) + 8
    most = max((depth for _, box in panels for depth in _depths(box, end)), default=0)
    parts = [*_legend()]
    for number, (title, box) in enumerate(panels):
        parts += _panel(title, box, HEAD + PANEL * number, end, most)
    size = f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
    body = "".join(f"{part}\n" for part in parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {size}>\n'
        f"<title>Which model has the GPU on a simulated day</title>\n"
        f"<style>{_style()}</style>\n{body}</svg>\n"
    )


def _style() -> str:
    light = "".join(f".{name} {{ fill: {colour} }}\n" for name, (colour, _) in COLOURS.items())
    dark = "".join(f".{name} {{ fill: {colour} }}\n" for name, (_, colour) in COLOURS.items())
    return f"{STYLE}{light}@media (prefers-color-scheme: dark) {{{DARK}{dark}}}\n"


def _legend() -> Iterator[str]:
    x = LEFT
    for name in LOADS:
        yield f'<rect class="{name}" x="{x}" y="8" width="12" height="12" rx="2"/>'
        yield _text(x + 17, 18, name)
        x += 90
    for state, words in (("loading", "loading"), ("idle", "idle"), ("working", "working")):
        yield f'<rect class="{REALTIME} {state}" x="{x}" y="8" width="12" height="12" rx="2"/>'
        yield _text(x + 17, 18, words)
        x += 80


def _panel(title: str, box: Box, top: float, end: float, most: int) -> Iterator[str]:
    band, waits, depth = top + 24, top + 24 + BAND + GAP, top + 24 + BAND + PLOT + 2 * GAP
    yield _text(LEFT, top + 15, title, "head")
    yield from _axis(band, depth + PLOT, end)
    yield from _bands(box, band, end)
    yield _text(0, band + 19, "model")
    yield _text(0, waits + 14, "realtime wait")
    yield _text(0, waits + 29, f"up to {LONGEST_WAIT:.0f} s", "small")
    yield _waits(box, waits, end)
    yield _text(0, depth + 14, "items queued")
    yield _text(0, depth + 29, f"up to {most:,}", "small")
    yield _queue(box, depth, end, most)


def _axis(top: float, bottom: float, end: float) -> Iterator[str]:
    for hour in range(0, round(end / HOUR) + 1, 2):
        x = _x(hour * HOUR, end)
        yield f'<path class="tick" d="M{x:.1f} {top}V{bottom + 4}"/>'
        yield (
            f'<text class="small" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{hour}</text>'
        )


def _bands(box: Box, top: float, end: float) -> Iterator[str]:
    for model in LOADS:
        for state in STATES:
            spans = [one for one in box.record.spans if (one.model, one.state) == (model, state)]
            if path := _rectangles(spans, top, end):
                yield f'<path class="{model} {state}" d="{path}"/>'


def _rectangles(spans: Iterable[Span], top: float, end: float) -> str:
    """Spans that touch at a tenth of a pixel are one."""
    merged: list[list[float]] = []
    for span in spans:
        left, right = round(_x(span.start, end), 1), round(_x(min(span.end, end), end), 1)
        if merged and left <= merged[-1][1]:
            merged[-1][1] = right
        elif right > left:
            merged.append([left, right])
    return "".join(f"M{a:g} {top}h{b - a:.1f}v{BAND}H{a:g}z" for a, b in merged)


def _waits(box: Box, top: float, end: float) -> str:
    found = [one for one in box.record.waits if one.until_served >= 1 and one.at < end]
    bottom = top + PLOT
    lines = "".join(
        f"M{_x(one.at, end):.1f} {bottom}v-{_height(one.until_served, LONGEST_WAIT)}"
        for one in found
    )
    return f'<path class="tick" d="M{LEFT} {bottom}H{RIGHT}"/><path class="wait" d="{lines}"/>'


def _queue(box: Box, top: float, end: float, most: int) -> str:
    bottom = top + PLOT
    steps = "".join(f"V{bottom - _height(one, most):g}h{COLUMN}" for one in _depths(box, end))
    return f'<path class="depth" d="M{LEFT} {bottom}{steps}V{bottom}z"/>'


def _depths(box: Box, end: float) -> list[int]:
    """The most that were queued in the time of each column."""
    columns = (RIGHT - LEFT) // COLUMN
    found = [0] * columns
    last, before = 0, 0
    for time, depth in box.record.depths:
        column = min(columns - 1, int(time / end * columns))
        for one in range(last, column + 1):
            found[one] = max(found[one], before)
        found[column] = max(found[column], depth)
        last, before = column, depth
    return found


def _height(value: float, most: float) -> float:
    return round(PLOT * min(1.0, value / most), 1) if most else 0.0


def _x(time: float, end: float) -> float:
    return LEFT + (RIGHT - LEFT) * time / end


def _text(x: float, y: float, words: str, kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x}" y="{y}">{escape(words)}</text>'
