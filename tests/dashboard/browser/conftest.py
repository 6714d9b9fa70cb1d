"""One browser, and one gateway with its engines, for all tests of this folder."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from support.callers.chromium import Visit, chromium, visiting
from support.gateways.dashboard_stage import Stage, fill, staged

if TYPE_CHECKING:
    from playwright.async_api import Browser

Look = Callable[..., Awaitable[Visit]]

session = pytest_asyncio.fixture(scope="session", loop_scope="session")


@session
async def browser() -> "AsyncIterator[Browser]":
    async with chromium() as running:
        yield running


@session
async def stage(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """Filled; `browser` comes first, so that nothing is started on a machine without one."""
    async with staged(tmp_path_factory.mktemp("dashboard")) as found:
        await fill(found)
        yield found


@pytest_asyncio.fixture(loop_scope="session")
async def look(browser: "Browser") -> AsyncIterator[Look]:
    """Opens empty pages for a gateway at a URL, which close with the test.

    A test that expects complaints of a page takes them from its list.
    """
    async with AsyncExitStack() as stack:
        visits: list[Visit] = []

        async def opened(url: str, **options: Any) -> Visit:
            visits.append(await stack.enter_async_context(visiting(browser, url, **options)))
            return visits[-1]

        yield opened
        assert [one.complaints for one in visits if one.complaints] == []
