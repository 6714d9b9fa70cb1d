"""Logins in the database: they end on the server, hold in all processes, and tell no key."""

import asyncio
import json
import os
import re
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import httpx
import pytest
from gateway_plugins.dashboard import logins
from gateway_plugins.dashboard.logins import MAX_COOKIE, MAX_KEY, MAX_OF_ONE, Logins
from support.callers.raw_client import RawClient
from support.gateways.serving_process import Process
from support.gateways.serving_processes import a_client_of_each, several
from support.gateways.watched_pages import keys, login, token_of

from gateway import BadRequest
from gateway.testing import GatewayFor, Live


async def status(url: str, cookies: dict[str, str]) -> int:
    """What a browser with these cookies gets."""
    async with httpx.AsyncClient(base_url=url, cookies=cookies, trust_env=False) as browser:
        return (await browser.get("/dashboard/parts")).status_code


async def rows(live: Live) -> int:
    """The logins in the database."""
    query = "SELECT count(*) FROM dashboard_logins"
    [(found,)] = await live.gateway.storage.read(lambda db: list(db.select(query)))
    return int(found)


async def seen(client: RawClient, cookie: bytes) -> int:
    return (await client.ask("GET", "/dashboard/parts", [(b"cookie", cookie)])).status


@pytest.mark.slow
async def test_login_holds_in_all_processes_over_a_restart_and_ends_in_all(tmp_path: Path) -> None:
    auth, file = keys(tmp_path), tmp_path / "g.yaml"

    def serve() -> AbstractAsyncContextManager[Process]:
        plugins = ((auth.name, auth.options), "dashboard")
        return several(file, 2, *plugins, workers=["http://127.0.0.1:9"])

    form = [(b"content-type", b"application/x-www-form-urlencoded")]
    async with serve() as process, a_client_of_each(process, 2) as [one, two]:
        answer = await one.ask("POST", "/dashboard/login", form, b"key=gw-watcher")
        cookie = (answer.value(b"set-cookie") or b"").partition(b";")[0]
        assert [await seen(one, cookie), await seen(two, cookie)] == [200, 200]
    async with serve() as process, a_client_of_each(process, 2) as [one, two]:
        assert [await seen(one, cookie), await seen(two, cookie)] == [200, 200]
        page = await two.ask("GET", "/dashboard", [(b"cookie", cookie)])
        [token] = re.findall(rb'name="token" value="([0-9a-f]+)"', page.body)
        lines = [*form, (b"cookie", cookie)]
        ended = await two.ask("POST", "/dashboard/logout", lines, b"token=" + token)
        assert ended.status == 303
        assert [await seen(one, cookie), await seen(two, cookie)] == [401, 401]


def kept_in(folder: Path, secrets: list[str]) -> list[str]:
    """Those of the secrets that a file of the folder has."""
    contents = [file.read_bytes() for file in folder.iterdir()]
    return [one for one in secrets if any(one.encode() in content for content in contents)]


async def test_logout_ends_the_login_on_the_server_and_only_that_one(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    storage = {"path": str(tmp_path / "gateway.db")}
    live = await gateway_for(keys(tmp_path), "dashboard", storage=storage)
    other = await gateway_for(keys(tmp_path), "dashboard", storage=storage)
    async with login(live, "watcher") as browser, login(live, "watcher") as second:
        kept = dict(browser.cookies)
        forged = await browser.post("/dashboard/logout", data={"token": "x"})
        assert forged.status_code == 403
        assert await status(other.url, kept) == 200
        answer = await browser.post("/dashboard/logout", data={"token": await token_of(browser)})
        assert "Max-Age=0" in answer.headers["set-cookie"]
        assert (await browser.get("/dashboard/parts")).status_code == 401
        for url in (live.url, other.url):
            assert await status(url, kept) == 401, "a copy of the cookie is good for nothing"
        assert (await second.get("/dashboard/parts")).status_code == 200


async def test_login_ends_with_its_key_and_leaves_no_row(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await gateway_for(keys(tmp_path), "dashboard")
    async with login(live, "watcher") as browser:
        assert (await browser.get("/dashboard/parts")).status_code == 200
        assert await rows(live) == 1
        (tmp_path / "keys.json").write_text(json.dumps({"keys": []}))

        async def refused() -> bool:
            return (await browser.get("/dashboard/parts")).status_code == 401

        while not await refused():
            pass
        assert await rows(live) == 0


async def test_login_ends_in_time(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await gateway_for(keys(tmp_path), "dashboard")
    async with login(live, "watcher") as browser:
        await live.gateway.storage.write(
            lambda db: db.execute("UPDATE dashboard_logins SET until = until - 28800")
        )
        assert (await browser.get("/dashboard/parts")).status_code == 401
        assert await rows(live) == 1
    async with login(live, "boss"):
        assert await rows(live) == 1, "a login removes those that have ended"


async def test_login_holds_in_each_gateway_that_shares_the_database(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    storage = {"path": str(tmp_path / "gateway.db")}
    first = await gateway_for(keys(tmp_path), "dashboard", storage=storage)
    async with login(first, "watcher") as browser:
        cookies = dict(browser.cookies)
    second = await gateway_for(keys(tmp_path), "dashboard", storage=storage)
    assert await status(second.url, cookies) == 200


async def test_logins_of_one_key_and_of_all_are_bounded(
    gateway_for: GatewayFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = await gateway_for(keys(tmp_path), "dashboard")
    for _ in range(MAX_OF_ONE + 3):
        async with login(live, "boss") as newest:
            cookies = dict(newest.cookies)
    assert await rows(live) == MAX_OF_ONE
    assert await status(live.url, cookies) == 200
    async with login(live, "watcher"):
        assert await rows(live) == MAX_OF_ONE + 1
    monkeypatch.setattr(logins, "MAX_LOGINS", 5)
    async with login(live, "reader") as browser:
        assert await rows(live) == 5
        assert (await browser.get("/dashboard/parts")).status_code == 200


async def test_login_again_ends_the_login_before(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await gateway_for(keys(tmp_path), "dashboard")
    async with login(live, "watcher") as browser:
        before = dict(browser.cookies)
        await browser.post("/dashboard/login", data={"key": "gw-boss"})
        assert await rows(live) == 1
    assert await status(live.url, before) == 401


async def test_neither_half_of_a_login_tells_the_key(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await gateway_for("dashboard", storage={"path": str(tmp_path / "gateway.db")})
    kept, token = Logins(live.gateway.storage), "gw-" + "a" * 60
    cookies = [await kept.begin("boss", token, 60) for _ in range(2)]
    assert [await kept.find(one) for one in cookies] == [token, token]
    halves = await live.gateway.storage.read(
        lambda db: {bytes(half) for (half,) in db.select("SELECT half FROM dashboard_logins")}
    )
    assert len({*halves, *cookies}) == 4, "each login has halves of its own"
    assert not kept_in(tmp_path, [token, *cookies])


async def test_what_is_no_cookie_of_a_login_finds_nothing(gateway_for: GatewayFor) -> None:
    live = await gateway_for("dashboard")
    kept = Logins(live.gateway.storage)
    cookie = await kept.begin("boss", "gw-boss", 60)
    changed = [cookie[:place] + "~" + cookie[place + 1 :] for place in range(len(cookie))]
    shorter = [cookie[:length] for length in range(len(cookie) - 1)]
    for wrong in (*changed, *shorter, "", "é", "=" * 99, "A" * 99_999, os.urandom(99).hex()):
        assert await kept.find(wrong) is None, wrong
    assert await kept.find(cookie) == "gw-boss"


async def test_longest_key_fits_into_a_cookie(gateway_for: GatewayFor) -> None:
    live = await gateway_for("dashboard")
    kept, token = Logins(live.gateway.storage), "é" * (MAX_KEY // 2)
    cookie = await kept.begin("boss", token, 60)
    assert len(cookie) <= MAX_COOKIE
    assert await kept.find(cookie) == token
    with pytest.raises(BadRequest, match="too long"):
        await kept.begin("boss", token + "é", 60)


async def test_no_login_without_a_plugin_that_authenticates(gateway_for: GatewayFor) -> None:
    live = await gateway_for("dashboard")
    answer = await live.client.post("/dashboard/login", data={"key": "gw-boss"})
    assert (answer.status_code, "set-cookie" in answer.headers) == (400, False)
    assert await rows(live) == 0


async def test_many_may_log_in_at_once(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await gateway_for(keys(tmp_path), "dashboard")

    async def visit(name: str) -> int:
        async with login(live, name) as browser:
            return (await browser.get("/dashboard/parts")).status_code

    names = ["watcher", "reader", "boss", "trainer"] * 3
    assert await asyncio.gather(*map(visit, names)) == [200] * len(names)
    assert await rows(live) == len(names)
