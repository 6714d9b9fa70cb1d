"""Panels that are read when somebody asks for them: as JSON for the page, as CSV for a file."""

import csv
import io
from collections.abc import Sequence

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gateway import BadRequest, Cell, Forbidden, Host, NotFound
from gateway_plugins.dashboard.page import NO_STORE
from gateway_plugins.dashboard.panels import Offered, ShownPanel, offered, read
from gateway_plugins.dashboard.viewers import Viewer

MAX_ROWS = 1_000
"""Rows of a report on the page."""

MAX_LINES = 100_000
"""Rows of a report in a file."""

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a cell of text may not begin with: a spreadsheet would compute it."""


async def report(gateway: Host, viewer: Viewer, request: Request) -> Response:
    """Return the panel that the path names. Raises NotFound; Forbidden; CallError."""
    one = _named(gateway, request.path_params["name"])
    if not viewer.may(one.panel.scope):
        needed = f"this needs a key with the scope `{one.panel.scope}`"
        raise Forbidden(needed, code="missing_scope")
    kind = request.query_params.get("format", "json")
    if kind not in ("json", "csv"):
        raise BadRequest("the format is `json` or `csv`", param="format")
    if kind == "csv":
        return await _file(gateway, one)
    body = msgspec.json.encode(await _shown(gateway, one, MAX_ROWS))
    return Response(body, headers=NO_STORE, media_type="application/json")


async def _file(gateway: Host, one: Offered) -> Response:
    text = as_csv(await _shown(gateway, one, MAX_LINES))
    headers = {**NO_STORE, "content-disposition": f'attachment; filename="{one.name}.csv"'}
    return Response(text, headers=headers, media_type="text/csv; charset=utf-8")


def _named(gateway: Host, name: str) -> Offered:
    for one in offered(gateway):
        if one.name == name:
            return one
    raise NotFound("no plugin has a panel of this name")


async def _shown(gateway: Host, one: Offered, limit: int) -> ShownPanel:
    found = await read(gateway, one, limit)
    return ShownPanel.of(one, found)


def as_csv(panel: ShownPanel) -> str:
    """Return a panel as CSV, with a line of its columns first."""
    written = io.StringIO()
    lines = csv.writer(written)
    lines.writerow(panel.columns)
    lines.writerows([_cell(cell) for cell in row] for row in panel.rows)
    return written.getvalue()


def _cell(cell: Cell) -> Cell:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def reports(gateway: Host, viewer: Viewer) -> Sequence[Offered]:
    """Return the panels that this viewer may ask for."""
    found = offered(gateway)
    return [one for one in found if not one.panel.live and viewer.may(one.panel.scope)]
