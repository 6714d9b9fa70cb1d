"""A trajectory as tokens: by the keyboard, and 100,000 of them."""

from pathlib import Path

import pytest
from dashboard.browser.conftest import Look
from playwright.async_api import expect
from support.gateways.dashboard_stage import Stage, bearer, body, staged, token

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_arrow_keys_go_from_token_to_token(stage: Stage, look: Look) -> None:
    visit = await look(stage.url)
    page = visit.page
    await visit.login(token("boss"))
    await visit.section("Traces")
    await page.get_by_role("link", name="agent-1").click()
    tokens = page.get_by_role("region", name="tokens; arrow keys")
    await tokens.focus()
    facts = page.locator(".facts")
    await page.locator(".sight span").nth(2).hover()  # and there the mouse stays
    assert "3 of" in await facts.inner_text()
    for key, place in (("End", None), ("Home", 1), ("ArrowRight", 2), ("ArrowLeft", 1)):
        await page.keyboard.press(key)
        said = await facts.inner_text()
        if place is None:
            assert "1, sampled" in said
            assert "Alternatives" in said
        else:
            assert f"{place} of" in said
    assert await page.locator(".sight .given").count() > 0


async def test_branches_say_their_kind_and_turns_their_harness(stage: Stage, look: Look) -> None:
    says = {"x-session-id": "child", "x-parent-session-id": "agent-1"}
    headers = bearer("boss") | says | {"user-agent": "opencode/1.0"}
    answer = await stage.client.post(
        "/v1/chat/completions", json=body(n=2, seed=1), headers=headers
    )
    assert answer.status_code == 200
    visit = await look(stage.url)
    page = visit.page
    await visit.login(token("boss"))
    await page.evaluate("location.hash = '#traces/child'")
    branches = page.get_by_label("Trajectory").locator("option")
    await expect(branches.nth(1)).to_contain_text("another choice of the call, from branch 0")
    await page.locator("#traces tbody button").click()
    await visit.sees("Harness: opencode, from session")
    await page.locator(".turn").get_by_role("link", name="agent-1").click()
    await visit.sees("Session agent-1")


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_hundred_thousand_tokens_are_few_nodes_and_soon_there(
    look: Look, tmp_path: Path
) -> None:
    """The bounds have slack: other programs have the machine, too."""
    async with staged(tmp_path, engines={"long": ("--max-model-len", "120000")}) as stage:
        answer = await stage.chat("long", max_tokens=100_000, ignore_eos=True)
        usage = answer.json()["usage"]
        assert usage["completion_tokens"] == 100_000
        visit = await look(stage.url)
        await visit.login(token("boss"))
        await visit.section("Traces")
        await visit.sees("long")
        seconds = await visit.page.evaluate(PAINTED)
        step, nodes, last = await visit.page.evaluate(SCROLLED)
        print(f"painted after {seconds:.2f} s, {nodes} nodes, a step: {step:.3f} s")  # noqa: T201
        assert seconds < 3, "from the click to the first tokens"
        assert nodes < 2_000
        assert last == 100_000 + usage["prompt_tokens"] - 1, "it scrolls to the end"
        assert step < 0.1, f"half of the steps took more than {step} s"
        await visit.picture(tmp_path, "long-trajectory")
        await visit.context.close()


PAINTED = """async () => {
  const until = async found => { while (!found()) await new Promise(requestAnimationFrame); };
  const link = () => document.querySelector('a[href="#traces/long"]');
  let best = Infinity;
  for (let attempt = 0; attempt < 3; attempt++) {
    await until(() => link() !== null);
    const began = performance.now();
    link().click();
    await until(() => document.querySelector('.sight span') !== null);
    best = Math.min(best, (performance.now() - began) / 1000);
    await until(() => document.querySelector('#traces tbody button') !== null);
    if (attempt < 2) location.hash = "#traces";
  }
  return best;
}"""
"""The best of three, in seconds."""

SCROLLED = """async () => {
  const frame = document.querySelector('.tokens');
  const frames = [];
  let before = performance.now(), nodes = 0;
  for (let step = 0; step <= 100; step++) {
    frame.scrollTop = frame.scrollHeight * step / 100;
    await new Promise(requestAnimationFrame);
    await new Promise(requestAnimationFrame);
    const now = performance.now();
    frames.push((now - before) / 1000);
    before = now;
    nodes = Math.max(nodes, document.querySelectorAll('*').length);
  }
  const last = [...document.querySelectorAll('.sight span')].at(-1);
  frames.sort((one, other) => one - other);
  return [frames[50], nodes, Number(last.dataset.at)];
}"""
"""The median of the steps in seconds, the most nodes, and the last token in sight."""
