"""Takes README's picture of the dashboard: `make picture`. Needs chromium."""

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Any

from support.callers.chromium import Visit, chromium, visiting
from support.gateways.dashboard_stage import Stage, staged, token

SIZE = (1200, 760)
"""Pixels of the picture."""

SYSTEM = {"role": "system", "content": "You fix bugs."}


async def converse(stage: Stage) -> None:
    """A session of three turns, with a fork: the last one changes what was said before."""
    said: list[dict[str, Any]] = [SYSTEM, {"role": "user", "content": "Why does the test fail?"}]
    for text in ("Show me the log.", "And the fix?"):
        said += [await _answer(stage, said), {"role": "user", "content": text}]
    await _answer(stage, said)
    said[0] = {**SYSTEM, "content": "You fix bugs, and write tests."}
    await _answer(stage, said)


async def _answer(stage: Stage, messages: list[dict[str, Any]]) -> dict[str, Any]:
    made = await stage.chat("fix-the-test", messages=messages, max_tokens=24, top_logprobs=4)
    answer = made.json()
    return {"role": "assistant", "content": answer["choices"][0]["message"]["content"]}


async def shown(visit: Visit) -> None:
    """Lead the page to the tokens of the session, with one of them chosen."""
    await visit.login(token("boss"))
    await visit.section("Traces")
    await visit.page.get_by_role("link", name="fix-the-test").click()
    await visit.page.locator(".sight .sampled").first.hover()
    await visit.sees("Alternatives")


async def take(file: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with staged(Path(folder)) as stage, chromium() as browser:
            await converse(stage)
            async with visiting(browser, stage.url, width=SIZE[0]) as visit:
                await shown(visit)
                await visit.page.set_viewport_size({"width": SIZE[0], "height": SIZE[1]})
                await visit.page.screenshot(path=file)


if __name__ == "__main__":
    asyncio.run(take(Path(sys.argv[1])))
