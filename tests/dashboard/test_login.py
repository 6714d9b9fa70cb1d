"""Who sees the page, by which key, and what a stranger's page cannot make a browser do."""

from pathlib import Path

import httpx
import pytest
from support.gateways.watched_pages import bearer, keys, login, token_of

from gateway.testing import GatewayFor


async def test_page_is_open_if_no_plugin_authenticates(gateway_for: GatewayFor) -> None:
    live = await gateway_for("dashboard")
    page = await live.client.get("/dashboard")
    assert page.status_code == 200
    assert 'data-view="fleet" data-admin' in page.text
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self'" in policy
    assert "unsafe" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "<script>" not in page.text
    assert "style=" not in page.text
    for name in ("app.mjs", "page.css"):
        file = await live.client.get(f"/dashboard/files/{name}")
        assert file.status_code == 200
        assert "://" not in file.text, "nothing is loaded from elsewhere"
    for name in ("page.html", "..%2f__init__.py", "nothing.mjs"):
        assert (await live.client.get(f"/dashboard/files/{name}")).status_code == 404


async def test_fault_13_1_a_login_replaces_the_key_in_the_address(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await gateway_for(keys(tmp_path), "dashboard")
    stranger = await live.client.get("/dashboard")
    assert 'action="dashboard/login"' in stranger.text
    assert "data-view" not in stranger.text
    for path in ("/dashboard", "/dashboard/parts", "/dashboard/api/health/workers", "/ui/summary"):
        refused = await live.client.get(path, params={"key": "gw-boss"}, headers=bearer("boss"))
        assert refused.status_code == 400, path
        assert refused.json()["error"]["param"] == "key"
        assert "gw-boss" not in refused.text
    answer = await live.client.post("/dashboard/login", data={"key": "gw-watcher"})
    cookie = answer.headers["set-cookie"]
    assert "gw-watcher" not in cookie
    assert {"HttpOnly", "SameSite=Strict", "Max-Age=28800", "Path=/dashboard"} <= {
        one.strip() for one in cookie.split(";")
    }
    assert "Secure" not in cookie
    page = await live.client.get("/dashboard")
    assert 'data-view="fleet"' in page.text
    assert "data-admin" not in page.text
    assert (await live.client.get("/dashboard/parts")).json()["fleet"]["healthy"] == 1


@pytest.mark.parametrize("key", ["", "gw-nobody", "gw-é", "a b\r\nx: y"])
async def test_login_with_a_bad_key_shows_the_form_again(
    gateway_for: GatewayFor, tmp_path: Path, key: str
) -> None:
    live = await gateway_for(keys(tmp_path), "dashboard")
    answer = await live.client.post("/dashboard/login", data={"key": key})
    assert (answer.status_code, 'role="alert"' in answer.text) == (401, True)
    assert "set-cookie" not in answer.headers


async def test_login_refuses_what_is_no_form(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await gateway_for(keys(tmp_path), "dashboard")
    large = await live.client.post("/dashboard/login", content=b"key=" + b"x" * 9_000)
    assert large.status_code == 413
    odd = await live.client.post("/dashboard/login", content=b"\xff" * 10)
    assert odd.status_code == 400
    long = await live.client.post("/dashboard/login", content=b"key=" + b"x" * 8_000)
    assert long.status_code == 401


async def test_actions_need_the_token_of_the_page(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await gateway_for(keys(tmp_path), "dashboard")
    [worker] = live.gateway.workers.all
    path = f"/dashboard/api/admin/workers/{worker.id}/drain"
    async with login(live, "boss") as browser:
        for token in ("", "0" * 64, "é"):
            refused = await browser.post(path, headers=[(b"x-csrf-token", token.encode())])
            assert refused.status_code == 403, token
            assert "token of the page" in refused.json()["error"]["message"]
        assert worker.fit
        assert (await browser.post(path)).json()["state"] == "draining"
        other = {**browser.headers, "sec-fetch-site": "cross-site"}
        assert (await browser.post(path, headers=other)).status_code == 403
    assert (await live.client.post(path, headers=bearer("boss"))).status_code == 200


async def test_open_page_needs_the_token_too(gateway_for: GatewayFor) -> None:
    live = await gateway_for("dashboard")
    [worker] = live.gateway.workers.all
    path = f"/dashboard/api/admin/workers/{worker.id}/drain"
    assert (await live.client.post(path)).status_code == 403
    token = {"x-csrf-token": await token_of(live.client)}
    assert (await live.client.post(path, headers=token)).status_code == 200


async def test_scopes_of_the_key_decide(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await gateway_for(keys(tmp_path), "dashboard")
    [worker] = live.gateway.workers.all
    async with login(live, "watcher") as browser:
        refused = await browser.post(f"/dashboard/api/admin/workers/{worker.id}/drain")
        assert refused.json()["error"]["code"] == "missing_scope"
        assert (await browser.get("/dashboard/api/health/workers")).status_code == 200
    async with login(live, "caller") as browser:
        assert "data-view" not in (await browser.get("/dashboard")).text
        assert (await browser.get("/dashboard/parts")).json() == {}
        assert (await browser.get("/dashboard/api/health/workers")).status_code == 403


async def test_page_makes_no_calls_and_does_not_ask_itself(gateway_for: GatewayFor) -> None:
    live = await gateway_for("sessions", "dashboard")
    token = {"x-csrf-token": await token_of(live.client)}
    for path in ("v1/models", "v1/chat/completions", "sessions/a/v1/models", "dashboard/api/x"):
        answer = await live.client.post(f"/dashboard/api/{path}", headers=token, json={})
        assert answer.status_code == 403, path
    assert (await live.client.get("/dashboard/api/nothing")).status_code == 404


async def test_cookie_of_https_is_for_https_only(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await gateway_for(keys(tmp_path), "dashboard")
    transport = httpx.ASGITransport(live.gateway)
    async with httpx.AsyncClient(transport=transport, base_url="https://gateway") as browser:
        answer = await browser.post("/dashboard/login", data={"key": "gw-watcher"})
    assert answer.headers["set-cookie"].endswith("; Secure")
