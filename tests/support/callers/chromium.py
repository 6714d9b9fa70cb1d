"""A Chromium without a window, led through its debugging protocol over two pipes."""

import asyncio
import base64
import contextlib
import json
import os
import shutil
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

PROGRAM = shutil.which("chromium") or ""

PATIENCE = 30.0
"""Seconds within which a page has to do what is waited for."""

_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
    "--no-first-run",
)

_PIPES = 'exec "$@" 3<&{} 4>&{}'
"""Chromium reads its third descriptor and writes its fourth."""


class Chromium:
    """A running browser."""

    def __init__(self, reader: asyncio.StreamReader, out: int) -> None:
        self._reader = reader
        self._out = out
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._number = 0
        self.told: list[str] = []
        self.reading = asyncio.create_task(self._read())

    async def ask(self, method: str, session: str | None = None, **params: object) -> Any:
        """Return the result of a command. Raises RuntimeError with what the browser says."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": params}
        if session is not None:
            command["sessionId"] = session
        answer = self._waiting[self._number] = asyncio.get_running_loop().create_future()
        os.write(self._out, json.dumps(command).encode() + b"\0")
        async with asyncio.timeout(PATIENCE):
            said = await answer
        if "error" in said:
            raise RuntimeError(f"{method}: {said['error']}")
        return said["result"]

    async def _read(self) -> None:
        while True:
            said = json.loads((await self._reader.readuntil(b"\0"))[:-1])
            if "id" in said:
                self._waiting.pop(said["id"]).set_result(said)
            elif said["method"] in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.told.append(json.dumps(said["params"])[:2_000])

    async def open(self, url: str, *, width: int = 1280, dark: bool = False) -> "Page":
        """Return a page that shows `url`."""
        made = await self.ask("Target.createTarget", url="about:blank")
        attached = await self.ask("Target.attachToTarget", targetId=made["targetId"], flatten=True)
        page = Page(self, attached["sessionId"])
        for domain in ("Page", "Runtime", "Log"):
            await page.ask(f"{domain}.enable")
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        await page.ask("Emulation.setDeviceMetricsOverride", **size)
        media = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        await page.ask("Emulation.setEmulatedMedia", features=media)
        await page.ask("Page.navigate", url=url)
        return page


class Page:
    """A page in a browser."""

    def __init__(self, browser: Chromium, session: str) -> None:
        self._browser = browser
        self._session = session

    async def ask(self, method: str, **params: object) -> Any:
        return await self._browser.ask(method, self._session, **params)

    async def value(self, expression: str) -> Any:
        """Return the value of an expression, awaited. Raises RuntimeError with what it throws."""
        said = await self.ask(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in said:
            raise RuntimeError(json.dumps(said["exceptionDetails"])[:2_000])
        return said["result"].get("value")

    async def until(self, expression: str) -> Any:
        """Return the value of an expression as soon as it is true."""
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    with contextlib.suppress(RuntimeError):  # the page is being loaded
                        if found := await self.value(expression):
                            return found
                    await asyncio.sleep(0.02)
        except TimeoutError:
            text = await self.value("document.body.innerText")
            raise AssertionError(
                f"never true: {expression}\n{text}\n{self._browser.told}"
            ) from None

    async def click(self, selector: str) -> None:
        await self.until(f"document.querySelector({json.dumps(selector)}) !== null")
        await self.value(f"document.querySelector({json.dumps(selector)}).click()")

    async def text(self) -> str:
        return str(await self.value("document.body.innerText"))

    async def screenshot(self) -> bytes:
        """Return a picture of the whole page as PNG."""
        said = await self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(said["data"])


@contextlib.asynccontextmanager
async def chromium(folder: Path, *flags: str) -> AsyncIterator[Chromium]:
    """Run a browser whose profile is in `folder`."""
    to_browser, ours = os.pipe()
    mine, from_browser = os.pipe()
    given: Sequence[str] = (PROGRAM, *_FLAGS, f"--user-data-dir={folder / 'profile'}", *flags)
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", _PIPES.format(to_browser, from_browser), "bash", *given),
        pass_fds=(to_browser, from_browser),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    os.close(to_browser)
    os.close(from_browser)
    reader = asyncio.StreamReader(limit=1 << 27)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(mine, "rb")
    )
    browser = Chromium(reader, ours)
    try:
        yield browser
    finally:
        browser.reading.cancel()
        await asyncio.wait([browser.reading])
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        transport.close()
        os.close(ours)
        await asyncio.sleep(0)  # in which the transport closes its file
