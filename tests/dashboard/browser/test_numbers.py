"""Charts, budgets, calls of a day, training data, the matrix of scores, and actions on items."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from dashboard.browser.conftest import Look
from playwright.async_api import expect
from support.gateways.dashboard_stage import Stage, bearer, token
from support.gateways.watched_pages import EVIL

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_matrix_is_sorted_and_filtered(stage: Stage, look: Look, tmp_path: Path) -> None:
    visit = await look(stage.url)
    await visit.login(token("watcher"))
    await visit.section("Evaluations")
    page = visit.page
    head = page.get_by_role("columnheader", name="example share")
    await expect(head).to_have_attribute("aria-sort", "none")
    for order in ("descending", "ascending"):
        await head.get_by_role("button").click()
        await expect(head).to_have_attribute("aria-sort", order)
    first = page.locator("#evaluations tbody th").first
    await expect(first).to_have_text("sim")
    assert await first.evaluate("one => getComputedStyle(one).position") == "sticky"
    await expect(page.get_by_role("columnheader", name=f"example {EVIL}")).to_have_count(1)
    await page.get_by_label("Evaluation", exact=True).fill("share")
    await expect(page.get_by_role("columnheader", name=f"example {EVIL}")).to_have_count(0)
    await page.get_by_label("Model", exact=True).fill("none")
    await visit.sees("No model has such a score.")
    assert await page.get_by_text("Submit an evaluation").count() == 0
    await visit.picture(tmp_path, "matrix")


@pytest.mark.slow
async def test_evaluation_is_submitted_by_a_form(stage: Stage, look: Look) -> None:
    visit = await look(stage.url)
    await visit.login(token("boss"))
    await visit.section("Evaluations")
    await visit.page.get_by_text("Submit an evaluation").click()
    form = visit.page.locator("#evaluations details form")
    await form.get_by_label("Model").fill("sim")
    await form.get_by_label("Evaluations").select_option("example")
    await form.get_by_label("Prompts at most").fill("1")
    await form.get_by_role("button", name="Submit").click()
    said = visit.page.locator("#evaluations details [role=status]")
    await expect(said).to_contain_text("1 evaluation of sim will run")
    job = (await said.inner_text()).partition(":")[0]
    await expect(visit.page.get_by_role("rowheader", name=job)).to_be_visible()


async def test_day_leads_to_its_calls_and_a_call_to_its_trace(
    stage: Stage, look: Look, tmp_path: Path
) -> None:
    visit = await look(stage.url)
    await visit.login(token("boss"))
    await visit.section("Usage")
    page = visit.page
    for title in ("Tokens per day by model", "Requests per day by model"):
        await expect(page.get_by_role("img", name=title)).to_be_visible()
        await page.get_by_text(f"Numbers: {title}").click()
        numbers = page.get_by_role("region", name=title)
        await expect(numbers.get_by_role("columnheader", name="sim")).to_be_visible()
    await expect(page.get_by_role("region", name="Budgets of the keys")).to_contain_text("%")
    await visit.picture(tmp_path, "usage")
    await page.locator("#reports tbody th a").first.click()
    await visit.sees("Calls of")
    await page.get_by_label("Source").fill("realtime")
    await page.get_by_label("Key").fill("boss")
    await page.get_by_role("button", name="Search").click()
    await expect(page.locator("#reports tbody tr").first).to_contain_text("realtime")
    await visit.picture(tmp_path, "calls")
    await page.get_by_role("button", name="Trace of the call").first.click()
    await visit.sees("All sessions")
    await page.go_back()
    await visit.sees("Calls of")
    await page.get_by_role("link", name="All days").click()
    await expect(page.get_by_role("img", name="Tokens per day")).to_be_visible()


@pytest.mark.slow
async def test_load_is_drawn(stage: Stage, look: Look, tmp_path: Path) -> None:
    visit = await look(stage.url, scheme="dark")
    await visit.login(token("watcher"))
    await visit.section("Load")
    for title in ("Requests per minute", "Most calls in flight", "Length of the queue"):
        await expect(visit.page.get_by_role("img", name=title)).to_be_visible()
    await visit.page.get_by_text("Numbers: Requests per minute").click()
    table = visit.page.get_by_role("region", name="Requests per minute")
    await expect(table.get_by_role("columnheader", name="successes")).to_be_visible()
    await stage.chat("later")
    await expect(table).to_be_visible()
    await visit.picture(tmp_path, "load")


@pytest.mark.slow
async def test_charts_compute_what_they_show(stage: Stage, look: Look) -> None:
    """The functions of the page's modules, with numbers whose sums are known."""
    visit = await look(stage.url)
    await visit.login(token("watcher"))
    found = await visit.page.evaluate(COMPUTED)
    assert found["scales"] == [1, 1, 2, 10, 20, 40, 100, 3_000_000]
    assert found["kept"] == ["m0", "m1", "m2", "m3", "m4", "m5", "3 others"]
    assert found["others"] == [6, 0]
    assert found["sums"] == found["ends"]
    assert found["days"] == ["2026-02-26", "2026-02-27", "2026-02-28", "2026-03-01"]
    assert (found["week"], found["month"], found["none"]) == (7, 30, [])
    assert found["models"] == [
        {"name": "a", "values": [3, 0]},
        {"name": "no model", "values": [0, 9]},
    ]
    assert found["order"] == ["high", "low", "none"]


COMPUTED = """async () => {
  const files = new URL("dashboard/files/", location.href);
  const {nice, largest, stacked} = await import(new URL("charts.mjs", files));
  const {daysOf, byModel} = await import(new URL("reports.mjs", files));
  const {compared} = await import(new URL("evaluations.mjs", files));
  const series = Array.from({length: 9}, (_, n) => ({name: `m${n}`, values: [9 - n, 0]}));
  const kept = largest([...series].reverse());
  const stacks = stacked(kept, 2);
  const part = {columns: ["day", "model", "x", "y"],
    rows: [["d1", "a", 1, 2], ["d2", "", 4, 5], ["d0", "a", 7, 7]]};
  const cell = {key: "e", metric: "m"};
  const model = (name, value) => ({model: name, data: value === null ? {} : {e: {m: value}}});
  const days = daysOf(["2026-03-01", "2026-02-26"]);
  return {
    scales: [0, 1, 1.5, 9, 11, 31, 81, 2_100_000].map(nice),
    kept: kept.map(one => one.name), others: kept.at(-1).values,
    sums: [0, 1].map(at => series.reduce((sum, one) => sum + one.values[at], 0)),
    ends: stacks.map(stack => stack.at(-1)[1]),
    days: days.slice(-4), week: days.length, none: daysOf([]),
    month: daysOf(["2025-01-01", "2026-03-01"]).length,
    models: byModel(part, ["d1", "d2"], ["x", "y"]),
    order: [model("low", 1), model("none", null), model("high", 2)]
      .sort((one, other) => compared(one, other, cell, true)).map(one => one.model),
  };
}"""


async def test_failed_item_is_queued_again_after_a_confirmation(stage: Stage, look: Look) -> None:
    wrong = {"model": "sim", "prompt": "Hello", "max_tokens": -1}
    headers = bearer("boss")
    path = "/v1/batch/completions"
    answer = await stage.client.post(path, json=wrong, headers=headers)
    url, item = answer.json()["status_url"], answer.json()["id"]
    assert (await _over(stage, url))["attempts"] == 1
    visit = await look(stage.url)
    await visit.login(token("boss"))
    await visit.section("Runtime and batch")
    await visit.page.get_by_role("button", name=f"Requeue {item}").click()
    dialog = visit.page.get_by_role("dialog")
    await expect(dialog).to_contain_text("as if it had not been tried")
    await dialog.get_by_role("button", name="Requeue").click()
    await expect(dialog).to_be_hidden()
    async with asyncio.timeout(20):
        while (await _over(stage, url))["attempts"] != 2:
            pass


async def _over(stage: Stage, url: str) -> dict[str, Any]:
    answer = await stage.client.get(url, params={"wait": 20}, headers=bearer("boss"))
    found: dict[str, Any] = answer.json()
    return found


async def test_training_data_is_shown_with_what_to_do(
    stage: Stage, look: Look, tmp_path: Path
) -> None:
    visit = await look(stage.url)
    await visit.login(token("watcher"))
    await visit.section("Training data")
    page = visit.page
    await expect(page.get_by_role("img", name="Percent that can be trained on")).to_be_visible()
    found = page.get_by_role("region", name="By worker")
    await expect(found.get_by_role("rowheader", name="quick")).to_be_visible()
    await page.get_by_label("Calls of").select_option("the last week")
    await expect(page.get_by_label("Calls of")).to_have_value("7")
    await page.get_by_text("Numbers: Percent that can be trained on").click()
    await expect(page.locator("#training figure thead th").first).to_have_text("day")
    await visit.picture(tmp_path, "training")
