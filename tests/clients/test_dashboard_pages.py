"""The dashboard in a real Chromium: `pytest -m clients`, with Debian's `chromium` installed."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.callers.chromium import PROGRAM, Chromium, chromium
from support.gateways.capturing import chat
from support.gateways.watched_pages import EVIL, Offers, keys
from support.runtime.boxes import CHAT

from gateway.testing import GatewayFor, entry

pytestmark = [
    pytest.mark.clients,
    pytest.mark.timeout(180),
    pytest.mark.skipif(not PROGRAM, reason="there is no chromium"),
]

FAST = entry("dashboard", refresh=0.2)
UP_TO_DATE = "document.getElementById('state').textContent === 'Up to date'"


@pytest.fixture
async def browser(tmp_path: Path) -> AsyncIterator[Chromium]:
    async with chromium(tmp_path) as running:
        yield running


@pytest.mark.parametrize("dark", [False, True])
async def test_page_shows_every_panel(
    gateway_for: GatewayFor, browser: Chromium, tmp_path: Path, dark: bool
) -> None:
    live = await gateway_for("batch", Offers, FAST)
    for stream in (False, True):
        await live.client.post(CHAT, json=chat(stream=stream))
    page = await browser.open(f"{live.url}/dashboard", dark=dark)
    await page.until(UP_TO_DATE)
    text = await page.text()
    for word in ("Fleet", "worker", "TTFT p95", "Queue by model", "Fine", "line 4999"):
        assert word in text
    (tmp_path / "page.png").write_bytes(await page.screenshot())
    assert browser.told == []


async def test_fault_13_2_names_are_text_in_a_browser(
    gateway_for: GatewayFor, browser: Chromium
) -> None:
    live = await gateway_for("batch", Offers, FAST, workers=())
    body = {"model": EVIL, "prompt": "a"}
    assert (await live.client.post("/v1/batch/completions", json=body)).status_code == 202
    page = await browser.open(f"{live.url}/dashboard")
    await page.until(f"document.body.innerText.split({EVIL!r}).length > 3")
    assert await page.value("document.querySelectorAll('img, iframe, object').length") == 0
    blocked = await page.value(
        "(() => { const one = document.createElement('div');"
        "one.innerHTML = '<img src=x onerror=\"window.hurt = 1\">'; document.body.append(one);"
        "const script = document.createElement('script'); script.textContent = 'window.hurt = 2';"
        "document.body.append(script); return new Promise(done => setTimeout("
        "() => done(window.hurt ?? 0), 300)); })()"
    )
    assert blocked == 0, "the policy runs no inline script"


async def test_operator_drains_a_worker_after_a_confirmation(
    gateway_for: GatewayFor, browser: Chromium
) -> None:
    live = await gateway_for(FAST)
    [worker] = live.gateway.workers.all
    page = await browser.open(f"{live.url}/dashboard")
    for answer, fit in (("no", True), ("yes", False)):
        await page.click(f'[aria-label="Drain {worker.id}"]')
        await page.click(f'#confirm button[value="{answer}"]')
        await page.until("!document.getElementById('confirm').open")
        if not fit:
            await page.until("document.body.innerText.includes('draining')")
        assert worker.fit is fit
    await page.click(f'[aria-label="Undrain {worker.id}"]')
    await page.click('#confirm button[value="yes"]')
    await page.until(f"document.querySelector('[aria-label=\"Drain {worker.id}\"]') !== null")
    assert worker.fit


async def test_login_in_a_browser(
    gateway_for: GatewayFor, browser: Chromium, tmp_path: Path
) -> None:
    live = await gateway_for(keys(tmp_path), FAST)
    page = await browser.open(f"{live.url}/dashboard")
    await page.until("document.getElementById('key') !== null")
    await page.value("document.getElementById('key').value = 'gw-nobody'")
    await page.click("button")
    await page.until("document.querySelector('[role=alert]') !== null")
    await page.value("document.getElementById('key').value = 'gw-watcher'")
    await page.click("button")
    await page.until(UP_TO_DATE)
    assert await page.value("document.cookie") == "", "no script reads the cookie"
    assert await page.value("location.pathname + location.search") == "/dashboard"
    assert await page.value("document.querySelectorAll('[aria-label^=Drain]').length") == 0
    await page.click("header form button")
    await page.until("document.getElementById('key') !== null")
