"""Tables that are read when somebody asks for them, and their files."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from gateway_plugins.dashboard.panels import ShownPanel
from gateway_plugins.dashboard.reports import as_csv
from hypothesis import given
from hypothesis import strategies as st
from support.gateways.capturing import chat
from support.gateways.watched_pages import Offers, bearer, keys, login
from support.runtime.boxes import CHAT

from gateway import Panel, PanelRows, hookimpl
from gateway.testing import GatewayFor


class Rare:
    """A plugin with a panel that is read when somebody asks."""

    @hookimpl
    def panels(self) -> Sequence[Panel]:
        one = Panel(name="rare", title="Rare", scope="admin", read=self._read, live=False)
        return [one]

    async def _read(self, limit: int) -> PanelRows:
        return PanelRows([{"name": "=1+1", "calls": -3}, {"name": 'a,"b"\n', "calls": None}])


async def test_usage_is_told_by_day_key_and_model(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await gateway_for(keys(tmp_path), "usage", "dashboard")
    for name in ("caller", "trainer", "trainer"):
        answer = await live.client.post(CHAT, json=chat(), headers=bearer(name))
        assert answer.status_code == 200
    async with login(live, "watcher") as browser:
        titles = (await browser.get("/dashboard/panels")).json()
        names = ("days", "keys", "models", "sources", "days_models", "all")
        assert list(titles) == [f"usage.{name}" for name in names]
        found = (await browser.get("/dashboard/panels/usage.keys")).json()
        place = [found["columns"].index(name) for name in ("key", "requests", "total_tokens")]
        rows = [[row[one] for one in place] for row in found["rows"]]
        assert [row[:2] for row in rows] == [["trainer", 2], ["caller", 1]]
        assert rows[0][2] == 2 * rows[1][2]
        [day] = (await browser.get("/dashboard/panels/usage.days")).json()["rows"]
        assert day[0].count("-") == 2
        file = await browser.get("/dashboard/panels/usage.all?format=csv")
        assert file.headers["content-disposition"] == 'attachment; filename="usage.all.csv"'
        lines = list(csv.DictReader(io.StringIO(file.text)))
        assert sorted((one["key"], one["model"], one["requests"]) for one in lines) == [
            ("caller", "sim", "1"),
            ("trainer", "sim", "2"),
        ]
    assert "usage.keys" not in (await live.client.get("/dashboard/parts")).text


async def test_reports_ask_for_their_scope(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await gateway_for(keys(tmp_path), Rare, Offers, "dashboard")
    for name, status in (("watcher", 403), ("boss", 200)):
        shown = await live.client.get("/dashboard/panels", headers=bearer(name))
        assert ("Rare.rare" in shown.json()) is (status == 200)
        answer = await live.client.get("/dashboard/panels/Rare.rare", headers=bearer(name))
        assert answer.status_code == status
    unknown = await live.client.get("/dashboard/panels/no", headers=bearer("boss"))
    assert unknown.status_code == 404
    odd = await live.client.get("/dashboard/panels/Rare.rare?format=xls", headers=bearer("boss"))
    assert odd.status_code == 400
    broken = await live.client.get("/dashboard/panels/Offers.broken", headers=bearer("boss"))
    assert (broken.status_code, broken.json()["error"]["code"]) == (503, "panel_failed")


@given(st.lists(st.text(), min_size=1, max_size=5))
def test_no_cell_of_a_file_is_a_formula(cells: list[str]) -> None:
    columns = [str(place) for place in range(len(cells))]
    text = as_csv(ShownPanel(title="", plugin="", columns=columns, rows=[cells]))
    [_, row] = csv.reader(io.StringIO(text, newline=""))
    for cell, written in zip(cells, row, strict=True):
        assert written in (cell, f"'{cell}")
        assert not written.startswith(("=", "+", "-", "@"))
