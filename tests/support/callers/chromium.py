"""A Chromium without a window, led by Playwright. What its pages complain of is noted."""

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

if TYPE_CHECKING:
    from playwright.async_api import Browser, BrowserContext, Dialog, Page, Response

PROGRAM = shutil.which("chromium") or ""

PATIENCE = 45.0
"""Seconds within which a page has to do what is waited for."""

PICTURES = "DASHBOARD_PICTURES"
"""Environment variable: the folder in which pictures are kept; a temporary one without it."""

_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")

Scheme = Literal["light", "dark"]


@contextlib.asynccontextmanager
async def chromium() -> "AsyncIterator[Browser]":
    """Run a browser; the test is skipped on a machine that has none."""
    if not PROGRAM:
        pytest.skip("there is no chromium: `apt-get install chromium`")
    playwright = pytest.importorskip("playwright.async_api")
    playwright.expect.set_options(timeout=1000 * PATIENCE)
    async with playwright.async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=PROGRAM, args=_FLAGS)
        yield browser
        await browser.close()


class Visit:
    """A page in a context of its own, so with cookies of its own.

    `complaints` are the errors and warnings of the page, its broken rules of
    `Content-Security-Policy` among them, and the dialogs that scripts of strangers open.
    """

    def __init__(self, context: "BrowserContext", page: "Page", url: str) -> None:
        self.context = context
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        page.set_default_timeout(1000 * PATIENCE)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda said: self._note(said.type, said.text))
        page.on("dialog", self._refuse)

    def _note(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(text)

    async def _refuse(self, dialog: "Dialog") -> None:
        self.complaints.append(f"a dialog: {dialog.message}")
        await dialog.dismiss()

    async def go(self, path: str = "/dashboard") -> "Response | None":
        """Open a path of the gateway."""
        return await self.page.goto(f"{self.url}{path}")

    async def login(self, key: str) -> None:
        """Give a key to the form, and wait until the page shows what there is."""
        await self.go()
        await self.page.get_by_label("API key").fill(key)
        await self.page.get_by_role("button", name="Log in").click()
        await self.up_to_date()

    async def up_to_date(self) -> None:
        await self.page.get_by_text("Up to date").wait_for()

    async def section(self, title: str) -> None:
        """Go to a section by its link."""
        await self.page.get_by_role("navigation").get_by_role("link", name=title).click()

    async def sees(self, *texts: str) -> None:
        """Wait until all these texts are in sight."""
        for text in texts:
            await self.page.get_by_text(text).filter(visible=True).first.wait_for()

    async def picture(self, folder: Path, name: str) -> Path:
        """Keep a picture of the whole page as PNG."""
        file = Path(os.environ.get(PICTURES, folder)) / f"{name}.png"
        await self.page.evaluate(
            "scrollTo(0, 0)"
        )  # the header stays at the top of what is in sight
        await self.page.screenshot(path=file, full_page=True)
        return file


@contextlib.asynccontextmanager
async def visiting(
    browser: "Browser", url: str, *, width: int = 1280, scheme: Scheme = "light"
) -> AsyncIterator[Visit]:
    """Open an empty page for a gateway at `url`."""
    context = await browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
    )
    try:
        yield Visit(context, await context.new_page(), url)
    finally:
        async with asyncio.timeout(PATIENCE):
            await context.close()
