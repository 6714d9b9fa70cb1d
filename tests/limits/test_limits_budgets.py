"""What is spent of a day's and a month's budget: known after a restart, and to all processes."""

import calendar
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest
from gateway_plugins.limits import Limits, ledger
from gateway_plugins.limits.accounts import Account
from gateway_plugins.limits.book import MAX_SPANS, Book, Spending, periods_of
from gateway_plugins.limits.ledger import DELETE_BATCH, MIGRATIONS, Ledger, delete_old
from gateway_plugins.limits.need import Need
from gateway_plugins.limits.options import KeyLimits, Options, Price
from gateway_plugins.limits.refusing import LimitReached
from gateway_plugins.limits.rules import Rules
from hypothesis import given
from hypothesis import strategies as st
from support.gateways.capturing import chat
from support.plugins.recording_plugin import until
from support.records.databases import memory_database

from gateway.config import StorageSettings
from gateway.simulator import Simulator
from gateway.storage.sqlite.connection import Connection
from gateway.storage.sqlite.file import open_for_writing
from gateway.testing import GatewayFor, Live, entry

CHAT = "/v1/chat/completions"
PRICES = {"*": {"input": 1_000, "output": 2_000, "cached": 0}, "free": {"input": 0, "output": 0}}


def unix(text: str) -> float:
    return calendar.timegm(time.strptime(text, "%Y-%m-%d %H:%M:%S"))


async def ask(live: Live, **fields: Any) -> httpx.Response:
    return await live.client.post(CHAT, json=chat(**fields))


async def spent(live: Live, limit: str) -> float:
    answer = await live.client.get("/admin/limits?key=anonymous")
    state = answer.json()["limits"][limit]
    used: float = state["limit"] - state["remaining"]
    return used


def rows(path: Path) -> list[tuple[int, str, int, int]]:
    with closing(sqlite3.connect(path)) as db:
        query = "SELECT period, key, tokens, cost FROM limits_spent ORDER BY period"
        return db.execute(query).fetchall()


def opened(path: Path) -> Connection:
    return open_for_writing(path, "none", [MIGRATIONS])


async def test_budget_usage_survives_a_restart(
    gateway_for: GatewayFor, simulator: Simulator, tmp_path: Path
) -> None:
    budgets = {"tokens_per_day": 100_000, "cost_per_month": 500.0}
    storage = StorageSettings(path=str(tmp_path / "gateway.db"))
    plugin = entry("limits", default=budgets, prices=PRICES)
    first = await gateway_for(plugin, storage=storage)
    usages = [(await ask(first, stream=False)).json()["usage"] for _ in range(3)]
    tokens = sum(one["total_tokens"] for one in usages)
    cost = sum(one["prompt_tokens"] * 1e-3 + one["completion_tokens"] * 2e-3 for one in usages)
    await first.gateway.storage.flush()
    day, month = rows(tmp_path / "gateway.db")[::-1]
    assert day[1:] == month[1:] == ("anonymous", tokens, round(cost * 1e9))
    second = await gateway_for(plugin, storage=storage)
    assert await spent(second, "tokens_per_day") == tokens
    assert await spent(second, "cost_per_month") == pytest.approx(cost)


async def test_budget_includes_usage_of_other_processes(
    gateway_for: GatewayFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = StorageSettings(path=str(tmp_path / "gateway.db"))
    monkeypatch.setattr(ledger, "READ_INTERVAL", 0.01)
    plugin = entry("limits", default={"tokens_per_month": 2_000}, completion_estimate=10)
    one, other = [await gateway_for(plugin, storage=storage) for _ in range(2)]
    for live in (one, other, one):
        assert (await ask(live, max_tokens=500, stop=["."])).status_code == 200
        await live.gateway.storage.flush()
    total = rows(tmp_path / "gateway.db")[0][2]
    books = [live.plugin(Limits)._book for live in (one, other)]
    await until(lambda: all(book.month.tab("anonymous").all_tokens == total for book in books))
    for live in (one, other):
        refused = await ask(live, max_tokens=2_001 - total)
        assert refused.json()["error"]["code"] == "tokens_per_month"
        assert f"{2_000 - total} are left" in refused.json()["error"]["message"]


async def test_exhausted_budget_reports_when_it_resets(gateway_for: GatewayFor) -> None:
    default = {"cost_per_day": 0.05, "requests_per_minute": 100}
    live = await gateway_for(entry("limits", default=default, prices=PRICES))
    refused = await ask(live, max_tokens=1_000)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (429, "cost_per_day")
    assert "a cost of 0.05 per day" in error["message"]
    midnight = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(Book(time.time()).day.ends))
    assert refused.headers["retry-after"] == "59", "the AI SDK ignores a minute"
    assert refused.headers["retry-after-ms"] == "59000"
    assert refused.headers["x-should-retry"] == "false"
    assert refused.headers["x-ratelimit-resets-at"] == error["resets_at"] == midnight
    assert refused.headers["x-ratelimit-remaining-requests"] == "100", "nothing was taken"
    assert (await ask(live, model="free", max_tokens=1_000)).status_code == 404, "costs nothing"
    assert (await ask(live, max_tokens=1)).status_code == 200


async def test_keys_without_budgets_store_no_rows(gateway_for: GatewayFor, tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    limits = entry("limits", default={"tokens_per_minute": 1_000})
    live = await gateway_for(limits, storage=StorageSettings(path=str(path)))
    await ask(live)
    assert rows(path) == []


SUMS = st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 50)), max_size=8)


@given(st.lists(st.tuples(st.booleans(), SUMS, st.booleans()), max_size=10))
def test_ledgers_of_all_processes_agree_on_the_total(
    steps: list[tuple[bool, list[tuple[str, int]], bool]],
) -> None:
    """Two ledgers on one file, that commit groups of calls and look at the others' in any order."""
    day, month = periods_of(time.time())
    books = Book(time.time()), Book(time.time())
    ledgers = [Ledger(book.remembers) for book in books]
    with TemporaryDirectory() as folder:
        dbs = [opened(Path(folder, "gateway.db")) for _ in ledgers]
        for which, calls, looks in steps:
            group = [(Spending(k, day, n, n), Spending(k, month, n, n)) for k, n in calls]
            for key, tokens in calls:
                books[which].day.tab(key).add(tokens, tokens)
                books[which].month.tab(key).add(tokens, tokens)
            if group:
                ledgers[which].write(dbs[which], group)
                ledgers[which].written(group)
            if looks:
                books[which].learn(ledgers[which].news(dbs[which]))
        for db, ledger, book in zip(dbs, ledgers, books, strict=True):
            book.learn(ledger.news(db))
            db.close()
    everything = Counter[str]()
    for _, calls, _ in steps:
        for key, tokens in calls:
            everything[key] += tokens
    for book in books:
        for key in "ab":
            assert book.day.tab(key).all_tokens == everything[key]
            assert book.month.tab(key).all_cost == everything[key]


def test_budget_charges_a_call_to_the_day_it_began() -> None:
    terms = Rules(Options(default=KeyLimits(tokens_per_day=100))).terms("key", None)
    assert terms is not None
    book = Book(unix("2027-03-01 23:59:59"))
    account = Account("key", terms, 0.0)
    visit = account.enter(Need(90, 0), book, 0.0)
    with pytest.raises(LimitReached):
        account.enter(Need(20, 0), book, 0.0)
    book.roll_over(unix("2027-03-02 00:00:01"))
    account.enter(Need(100, 0), book, 0.0)
    visit.settle(Need(80, 0), 1.0)
    assert visit.day is not None
    assert (visit.day.period, visit.day.tokens) == (20270301, 80)
    assert book.day.tab("key").all_tokens == 100
    assert book.month.tab("key").all_tokens == 180


def test_budget_periods_follow_utc() -> None:
    book = Book(unix("2027-12-30 23:59:59"))
    assert (book.day.period, book.month.period) == (20271230, 20271200)
    assert book.day.ends == unix("2027-12-31 00:00:00")
    kept = book.month.tab("key")
    kept.add(5, 0)
    yesterday = book.day.tab("key")
    book.roll_over(unix("2027-12-31 00:00:00"))
    assert book.day.tab("key") is not yesterday
    assert book.month.tab("key") is kept
    book.roll_over(unix("2028-01-01 00:00:00"))
    assert (book.day.period, book.month.period) == (20280101, 20280100)
    assert book.month.tab("key").all_tokens == 0


def test_budget_of_a_day_is_not_given_anew_by_a_clock_that_is_set_wrong_and_back() -> None:
    book = Book(unix("2027-01-10 12:00:00"))
    book.day.tab("key").add(50, 0)
    book.roll_over(unix("2039-01-10 12:00:00"))
    assert book.day.tab("key").all_tokens == 0
    book.roll_over(unix("2027-01-10 12:00:05"))
    assert (book.day.period, book.day.tab("key").all_tokens) == (20270110, 50)
    assert book.month.period == 20270100
    book.roll_over(unix("2027-01-11 00:00:00"))
    assert (book.day.period, book.day.tab("key").all_tokens) == (20270111, 0)


@given(st.lists(st.integers(0, 4 * 366 * 86_400), min_size=1, max_size=20))
def test_book_has_the_day_and_month_of_any_clock(moves: list[int]) -> None:
    book = Book(0.0)
    for now in moves:
        book.roll_over(now)
        assert (book.day.period, book.month.period) == periods_of(now)
        assert book.day.begins <= now < book.day.ends
        assert book.month.begins <= now < book.month.ends
        assert len(book._days) <= MAX_SPANS


async def test_clock_that_jumps_ahead_locks_no_key_out(
    gateway_for: GatewayFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [unix("2027-01-10 12:00:00")]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    live = await gateway_for(entry("limits", default={"tokens_per_day": 1_000}))
    assert (await ask(live, max_tokens=700)).status_code == 200
    used = await spent(live, "tokens_per_day")
    clock[0] = unix("2039-01-10 12:00:00")
    assert (await ask(live, max_tokens=700)).status_code == 200
    clock[0] = unix("2027-01-10 12:00:05")
    assert await spent(live, "tokens_per_day") == used
    assert (await ask(live, max_tokens=1_001 - int(used))).status_code == 429
    clock[0] = unix("2027-01-11 12:00:00")
    assert (await ask(live, max_tokens=700)).status_code == 200


def test_delete_old_removes_only_expired_budget_rows() -> None:
    days = [periods_of(time.time() - age * 86_400)[0] for age in (0, 89, 91, 400)]
    with closing(memory_database([MIGRATIONS])) as db:
        ledger = Ledger(Book(time.time()).remembers)
        ledger.write(db, [[Spending("key", day, 1, 1)] for day in days])
        ledger.write(db, [[Spending(f"{n}", 20200101, 1, 1) for n in range(DELETE_BATCH + 1)]])
        slices = 0
        while delete_old(db):
            slices += 1
        assert slices == 2
        assert {day for (day,) in db.select("SELECT period FROM limits_spent")} == set(days[:2])


@given(*(st.integers(0, 1 << 32) for _ in range(3)))
def test_costs_are_integers_within_bounds(prompt: int, completion: int, cached: int) -> None:
    price = Price(input=1e5, output=1e5, cached=0)
    cost = price.of(prompt, completion, cached)
    assert 0 <= cost < 1 << 62
    assert cost == 100_000_000 * (max(prompt - cached, 0) + completion)


async def budgets(live: Live) -> list[dict[str, Any]]:
    [hook] = live.gateway.hooks("panels")
    found: list[dict[str, Any]] = [
        dict(row) for panel in hook.run(live.gateway) for row in (await panel.read(10)).rows
    ]
    return found


async def test_panel_shows_what_is_spent_of_each_budget(gateway_for: GatewayFor) -> None:
    of_ada = {"cost_per_month": 0.5}
    options = {"default": {"tokens_per_day": 200}, "keys": {"ada": of_ada}, "prices": PRICES}
    live = await gateway_for(entry("limits", **options))
    tokens = (await ask(live)).json()["usage"]["total_tokens"]
    found = {(one["key"], one["budget"]): one for one in await budgets(live)}
    assert next(iter(found)) == ("anonymous", "tokens_per_day"), "the fullest is the first"
    assert set(found) == {
        ("anonymous", "tokens_per_day"),
        ("ada", "tokens_per_day"),
        ("ada", "cost_per_month"),
    }
    spent = found["anonymous", "tokens_per_day"]
    assert (spent["spent"], spent["allowed"], spent["used_share"]) == (tokens, 200, tokens / 200)
    assert 0 < spent["new_budget_in_s"] <= 86_400
    assert found["ada", "cost_per_month"]["allowed"] == 0.5


async def test_without_budgets_there_is_no_panel(gateway_for: GatewayFor) -> None:
    live = await gateway_for(entry("limits", default={"requests_per_minute": 60}))
    assert await budgets(live) == []
