"""Gateways with a dashboard, their keys, and browsers that have logged in."""

import contextlib
import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import httpx

from gateway import Cell, Panel, PanelRows, hookimpl
from gateway.config import PluginEntry
from gateway.testing import Live, entry

KEYS: Mapping[str, Sequence[str]] = {
    "watcher": ["monitor"],
    "reader": ["monitor", "logs"],
    "boss": ["monitor", "admin"],
    "caller": ["realtime"],
    "trainer": ["realtime", "sessions"],
    "other": ["realtime", "sessions", "batch"],
    "nightly": ["batch"],
}
"""Ids of the keys and their scopes; the token of a key is `gw-` and its id."""

EVIL = "<img src=x onerror=alert(1)>"


def keys(folder: Path) -> PluginEntry:
    """The plugin that knows KEYS."""
    file = folder / "keys.json"
    named = [{"id": name, "token": f"gw-{name}", "scopes": scopes} for name, scopes in KEYS.items()]
    file.write_text(json.dumps({"keys": named}))
    file.chmod(0o600)
    return entry("auth", keys_file=str(file), check_interval=0.05)


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer gw-{name}"}


@contextlib.asynccontextmanager
async def login(live: Live, name: str) -> AsyncIterator[httpx.AsyncClient]:
    """A browser that has logged in, whose actions carry the token of the page."""
    async with httpx.AsyncClient(base_url=live.url, trust_env=False) as browser:
        answer = await browser.post("/dashboard/login", data={"key": f"gw-{name}"})
        assert (answer.status_code, answer.headers["location"]) == (303, "../dashboard")
        browser.headers["x-csrf-token"] = await token_of(browser)
        yield browser


async def token_of(browser: httpx.AsyncClient) -> str:
    page = (await browser.get("/dashboard")).text
    found = re.search('name="form-token" content="([0-9a-f]*)"', page)
    assert found is not None, page
    return found[1]


class Offers:
    """A plugin with three panels: one that works, one that fails, one that never ends."""

    @hookimpl
    def panels(self) -> Sequence[Panel]:
        return [
            Panel(name="fine", title="Fine", scope="monitor", read=self._fine),
            Panel(name="broken", title="Broken", scope="monitor", read=self._broken),
            Panel(name="log", title="Log", scope="logs", read=self._log),
        ]

    async def _fine(self, limit: int) -> PanelRows:
        rows: list[Mapping[str, Cell]] = [
            {"name": EVIL, "since_at": 1.0},
            {"name": "b", "other": True},
        ]
        return PanelRows(rows[:limit], 9)

    async def _broken(self, limit: int) -> PanelRows:
        raise ValueError("SECRET")

    async def _log(self, limit: int) -> PanelRows:
        lines: list[Mapping[str, Cell]] = [
            {"line": f"line {number} " + "x" * 100, "written_at": float(number)}
            for number in range(5_000)
        ]
        return PanelRows(lines[-limit:])
