"""Several processes let in what one of them would, whoever comes where, and whoever dies."""

import asyncio
import contextlib
import gc
import os
import shutil
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import httpx
import pytest
from gateway_plugins.limits.accounts import Account, Accounts, Visit
from gateway_plugins.limits.book import Book, Spending
from gateway_plugins.limits.need import ZERO_NEED, Need
from gateway_plugins.limits.options import KeyLimits, Options
from gateway_plugins.limits.refusing import LimitReached
from gateway_plugins.limits.rules import Rules, Terms
from gateway_plugins.limits.shared import LOOKS, Common
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from limits.test_limits import Badges, ask
from support.gateways.capturing import chat
from support.gateways.serving_process import serving
from support.plugins.recording_plugin import until

from gateway import Gateway, SharedTable
from gateway.cluster.peers import Peers
from gateway.config import Config, PluginEntry, StorageSettings, Worker
from gateway.simulator import Simulator
from gateway.testing import NO_PROBES, Live, entry, live

COUNT = 3
CHAT = "/v1/chat/completions"
STATE = "/admin/limits?key=anonymous"


def terms_of(**limits: int) -> Terms:
    terms = Rules(Options(default=KeyLimits(**limits))).terms("key", None)
    assert terms is not None
    return terms


class Process:
    """What one process knows: the accounts, and the book of budgets."""

    def __init__(self, folder: Path, index: int) -> None:
        self.common = Common(folder / "limits", index, COUNT)
        self.accounts = Accounts(self.common.account)
        self.book = Book(0.0)


Call = tuple[int, Visit, Visit]
"""The process that has it, and its visits there and where there is but one."""

WHICH = st.integers(0, COUNT - 1)
FEW = terms_of(requests_per_minute=6, tokens_per_minute=100, concurrent=4)
MANY = terms_of(requests_per_minute=20, burst_requests=4, tokens_per_minute=300, concurrent=6)
TERMS = (FEW, MANY, terms_of(concurrent=3), terms_of(requests_per_minute=5))


class LimitsOfAll(RuleBasedStateMachine):
    """The same calls come to three processes and to one: both do the same with each."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(mkdtemp())
        self.processes = [Process(self.folder, index) for index in range(COUNT)]
        self.one, self.book = Accounts(), Book(0.0)
        self.now, self.terms = 1_000.0, FEW
        self.running: list[Call] = []
        self.ended: list[Call] = []

    @rule(seconds=st.integers(0, 40))
    def wait(self, seconds: int) -> None:
        self.now += seconds + 0.0137  # it never comes to the very moment when a bucket is full

    @precondition(lambda self: not self.ended)
    @rule(terms=st.sampled_from(TERMS))
    def reload(self, terms: Terms) -> None:
        self.terms = terms
        asyncio.run(self.one.sweep(self.now))  # what is idle begins anew with other limits
        for accounts in (self.one, *(one.accounts for one in self.processes)):
            accounts.of("key", terms, self.now)

    @rule(which=WHICH, tokens=st.integers(0, 150), exempt=st.booleans())
    def come(self, which: int, tokens: int, exempt: bool) -> None:
        need, process = Need(tokens, 0), self.processes[which]
        here = process.accounts.of("key", self.terms, self.now)
        alone = self.one.of("key", self.terms, self.now)
        here.exempt = alone.exempt = exempt
        found = said(here, need, process.book, self.now), said(alone, need, self.book, self.now)
        if isinstance(found[0], Visit) and isinstance(found[1], Visit):
            self.running.append((which, found[0], found[1]))
        else:
            assert found[0] == found[1], "it is refused for the same reason, and as long"

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        call = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        for visit in call[1:]:
            visit.finished(None)
        self.ended.append(call)

    @precondition(lambda self: self.ended)
    @rule(used=st.integers(0, 300))
    def settle(self, used: int) -> None:
        for visit in self.ended.pop()[1:]:
            visit.settle(Need(used, 0), self.now)

    @rule(which=WHICH)
    def be_killed(self, which: int) -> None:
        """Another takes its place."""
        for process, _, alone in self.running:
            if process == which:
                alone.finished(None)
        self.running = [call for call in self.running if call[0] != which]
        self.ended = [call for call in self.ended if call[0] != which]
        self.processes[which].common.table.close()
        self.processes[which] = Process(self.folder, which)

    @rule(which=WHICH)
    def sweep(self, which: int) -> None:
        asyncio.run(self.processes[which].accounts.sweep(self.now))

    @invariant()
    def all_know_the_same(self) -> None:
        alone = self.one.of("key", self.terms, self.now)
        for process in self.processes:
            here = process.accounts.of("key", self.terms, self.now)
            here.look(self.now)
            assert here.in_flight == alone.in_flight
            assert levels(here, self.now) == pytest.approx(levels(alone, self.now))

    def teardown(self) -> None:
        for process in self.processes:
            process.common.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def said(account: Account, need: Need, book: Book, now: float) -> Visit | str:
    try:
        return account.enter(need, book, now)
    except LimitReached as refusal:
        return str(refusal)


def levels(account: Account, now: float) -> list[float]:
    buckets = (account.requests, account.tokens)
    return [one.refill(now) for one in buckets if one is not None]


TestLimitsOfAll = LimitsOfAll.TestCase
TestLimitsOfAll.settings = settings(max_examples=20, stateful_step_count=30)


BUDGET = 1_000


class BudgetsOfAll(RuleBasedStateMachine):
    """Three processes that spend of one budget, and look into one database once a second."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(mkdtemp())
        self.processes = [Process(self.folder, index) for index in range(COUNT)]
        self.terms = terms_of(tokens_per_day=BUDGET)
        self.running: list[tuple[int, Visit]] = []
        self.recorded = [0] * COUNT

    @property
    def taken(self) -> int:
        """By calls that have ended, and those that run."""
        return sum(self.recorded) + sum(visit.need.tokens for _, visit in self.running)

    @rule(which=WHICH, tokens=st.integers(1, 400))
    def come(self, which: int, tokens: int) -> None:
        process = self.processes[which]
        account = process.accounts.of("key", self.terms, 0.0)
        with contextlib.suppress(LimitReached):
            self.running.append((which, account.enter(Need(tokens, 0), process.book, 0.0)))
        assert self.taken <= BUDGET

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        which, visit = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        used = data.draw(st.integers(0, visit.need.tokens))
        visit.finished(None)
        visit.settle(Need(used, 0), 0.0)
        self.recorded[which] += used

    @rule(
        order=st.permutations([(look, which) for which in range(COUNT) for look in (True, False)]),
        tokens=st.integers(1, 400),
    )
    def let_a_second_go_by(self, order: Sequence[tuple[bool, int]], tokens: int) -> None:
        for look, which in order:
            process = self.processes[which]
            if look:
                others = sum(self.recorded) - self.recorded[which]
                process.book.learn([Spending("key", process.book.day.period, others, 0)])
            else:
                asyncio.run(process.common.turn())
                self.come((which + 1) % COUNT, tokens)

    def teardown(self) -> None:
        for _ in range(LOOKS + 1):
            everybody = [(look, which) for look in (True, False) for which in range(COUNT)]
            self.let_a_second_go_by(everybody, BUDGET + 1)
        for process in self.processes:
            account = process.accounts.of("key", self.terms, 0.0)
            account.look(0.0)
            assert account.spent(self.terms.budgets[0], process.book) == self.taken
            process.common.close()
        shutil.rmtree(self.folder, ignore_errors=True)


TestBudgetsOfAll = BudgetsOfAll.TestCase
TestBudgetsOfAll.settings = settings(max_examples=15, stateful_step_count=30)


@pytest.mark.parametrize("shared", [True, False])
def test_account_outlives_a_sweep_before_its_call_has_settled(
    tmp_path: Path, *, shared: bool
) -> None:
    """Two objects for one key would each undo what the other one stores."""
    process, terms = Process(tmp_path, 0), terms_of(tokens_per_minute=60, concurrent=3)
    accounts = process.accounts if shared else Accounts()
    ended = accounts.of("key", terms, 0.0).enter(Need(1, 0), process.book, 0.0)
    ended.finished(None)
    asyncio.run(accounts.sweep(100.0))
    assert not accounts.known
    running = accounts.of("key", terms, 100.0).enter(ZERO_NEED, process.book, 100.0)
    ended.settle(Need(11, 0), 100.0)
    account = accounts.of("key", terms, 100.0)
    account.look(100.0)
    assert (account.in_flight, levels(account, 100.0)) == (1, [50])
    running.finished(None)
    asyncio.run(accounts.sweep(200.0))
    del account, ended, running
    gc.collect()
    assert not accounts._swept


def test_account_without_a_shared_row_joins_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, terms = Process(tmp_path, 0), terms_of(requests_per_minute=60, concurrent=3)
    account = process.accounts.of("key", terms, 0.0)
    with monkeypatch.context() as patched:
        patched.setattr(SharedTable, "made", lambda *_: None)
        visits = [account.enter(ZERO_NEED, process.book, 0.0) for _ in range(2)]
        visits[0].finished(None)
        account.look(0.0)
        assert account.in_flight == 1
    other = Process(tmp_path, 1).accounts.of("key", terms, 0.0)
    account.enter(ZERO_NEED, process.book, 0.0)
    other.look(0.0)
    assert (other.in_flight, levels(other, 0.0)) == (2, [57])
    visits[1].finished(None)
    other.look(0.0)
    assert other.in_flight == 1


def test_process_with_old_limits_does_not_undo_new_ones(tmp_path: Path) -> None:
    few, many = terms_of(requests_per_minute=6), terms_of(requests_per_minute=600)
    here, there = (Process(tmp_path, index) for index in range(2))
    visit = here.accounts.of("key", few, 0.0).enter(ZERO_NEED, here.book, 0.0)
    running = there.accounts.of("key", few, 0.0).enter(ZERO_NEED, there.book, 0.0)
    account = there.accounts.of("key", many, 10.0)
    assert levels(account, 40.0) == [5 + 300]
    account.enter(ZERO_NEED, there.book, 40.0)
    visit.finished(None)
    visit.settle(ZERO_NEED, 40.0)
    account.look(40.0)
    assert levels(account, 40.0) == [304]
    running.finished(None)


@contextlib.asynccontextmanager
async def two(
    simulator: Simulator, folder: Path, *plugins: PluginEntry
) -> AsyncIterator[list[Live]]:
    """Gateways that think that they are in processes of their own."""
    config = Config(
        workers=(Worker(url=simulator.url),),
        plugins=plugins,
        storage=StorageSettings(path=str(folder / "gateway.db")),
        probes=NO_PROBES,
    )
    async with contextlib.AsyncExitStack() as stack:
        gateways = [Gateway(config, peers=Peers(index, 2, folder)) for index in range(2)]
        yield [await stack.enter_async_context(live(gateway)) for gateway in gateways]


async def shown(live: Live, path: str = STATE) -> Any:
    return (await live.client.get(path)).json()


async def test_two_processes_enforce_and_show_one_limit(
    simulator: Simulator, tmp_path: Path
) -> None:
    options = {"requests_per_minute": 1, "burst_requests": 5, "concurrent": 9}
    async with two(simulator, tmp_path, entry("limits", default=options)) as both:
        answers = [await ask(both[number % 2]) for number in range(14)]
        assert sorted(one.status_code for one in answers) == [200] * 5 + [429] * 9
        left = [one.headers["x-ratelimit-remaining-requests"] for one in answers[:5]]
        assert left == ["4", "3", "2", "1", "0"]
        for one in both:
            state = (await shown(one))["limits"]
            assert state["requests_per_minute"]["remaining"] < 1
            assert state["concurrent_calls"]["remaining"] == 9


async def test_calls_in_flight_count_across_processes(simulator: Simulator, tmp_path: Path) -> None:
    limits = entry("limits", default={"concurrent": 1, "tokens_per_day": 1_000})
    async with two(simulator, tmp_path, limits) as (one, other):
        slow = {"x-sim-itl": "60"}
        body = chat(max_tokens=600, stream=True)
        async with one.client.stream("POST", CHAT, json=body, headers=slow) as running:
            assert running.status_code == 200
            assert (await ask(other)).json()["error"]["code"] == "concurrent_calls"
            state = await shown(other)
            assert state["in_flight"] == 1
            assert state["limits"]["tokens_per_day"]["remaining"] < 400
        await until(lambda: not one.gateway.workers.slots.used)
        await until(lambda: not one.gateway.proxy.in_flight)
        assert (await ask(other, max_tokens=10)).status_code == 200


async def test_call_waits_for_one_of_its_key_in_another_process(
    simulator: Simulator, tmp_path: Path
) -> None:
    limits = entry("limits", default={"concurrent": 1, "max_waiting": 2})
    async with two(simulator, tmp_path, limits) as (one, other):
        slow = {"x-sim-itl": "60"}
        body = chat(max_tokens=600, stream=True)
        async with one.client.stream("POST", CHAT, json=body, headers=slow) as running:
            assert running.status_code == 200
            waiting = asyncio.create_task(ask(other, max_tokens=10))
            await until(lambda: bool(other.gateway.proxy.in_flight))
            assert (await ask(other)).json()["error"]["code"] == "concurrent_calls"
            assert not waiting.done()
        assert (await waiting).status_code == 200


async def test_each_process_lists_the_keys_of_all(simulator: Simulator, tmp_path: Path) -> None:
    limits = entry("limits", default={"concurrent": 3}, tiers={"gold": {"concurrent": 7}})
    async with two(simulator, tmp_path, entry(Badges), limits) as (one, other):
        for live, names in ((one, "ace"), (other, "bcd")):
            for name in names:
                headers = {"authorization": f"{name} gold"}
                assert (await live.client.post(CHAT, json=chat(), headers=headers)).is_success
        for live in (one, other):
            live.client.headers["authorization"] = "operator"
            seen: list[str] = []
            cursor: str | None = ""
            while cursor is not None:
                page = await shown(live, f"/admin/limits?limit=2&cursor={cursor}")
                seen += [state["key"] for state in page["keys"]]
                cursor = page["next"]
            assert seen == [*"abcde"]
            for key in "abe":
                state = await shown(live, f"/admin/limits?key={key}")
                assert state["limits"]["concurrent_calls"]["limit"] == 7, "who knows it has told"
            state = await shown(live, "/admin/limits?key=z")
            assert state["limits"]["concurrent_calls"]["limit"] == 3


CONFIG = """
workers: [{{url: {worker}}}]
storage: {{path: {folder}/gateway.db}}
processes: 2
plugins:
  - limits: {{default: {{requests_per_minute: 1, burst_requests: 20, concurrent: 4}}}}
"""


async def test_processes_share_limits_and_a_killed_one_returns_its_slots(
    simulator: Simulator, tmp_path: Path
) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text(CONFIG.format(worker=simulator.url, folder=tmp_path))
    async with serving("", "--config", str(config)) as process:
        running = [asyncio.create_task(stream(process.url)) for _ in range(4)]
        await until(lambda: simulator.stats.in_flight == 4)
        assert (await called(process.url))["error"]["code"] == "concurrent_calls"
        for child in children(process.pid):
            os.kill(child, signal.SIGKILL)
        await asyncio.wait(running)
        while (await called(process.url, "GET", STATE))["in_flight"]:
            pass  # the second is not in the place of the killed one yet
        answers = [await called(process.url) for _ in range(40)]
        assert sum("choices" in one for one in answers) == 20 - 4


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def stream(url: str) -> None:
    """Until the gateway breaks it off."""
    slow = {"x-sim-itl": "60"}
    async with httpx.AsyncClient(base_url=url, timeout=None, verify=False) as client:
        with contextlib.suppress(httpx.HTTPError):
            await client.post(CHAT, json=chat(stream=True), headers=slow)


async def called(url: str, method: str = "POST", path: str = CHAT) -> Any:
    """The answer, on a connection of its own; one whose process has just died is lost."""
    body = chat() if method == "POST" else None
    found: httpx.Response | None = None
    while found is None:
        async with httpx.AsyncClient(base_url=url, verify=False) as client:
            with contextlib.suppress(httpx.TransportError):
                found = await client.request(method, path, json=body)
    return found.json()
