"""What a broken hook does: one that decides closes the way, one that watches harms nobody."""

import asyncio
import inspect
from collections.abc import Awaitable, Sequence
from typing import Any

import httpx
import pytest
from support.plugins.hook_probes import (
    Breaking,
    BreakingAtOnce,
    BreakingLater,
    Recorder,
    Witness,
)
from support.plugins.recording_plugin import until

from gateway import Answer, Call, Config, Outcome, Principal, Worker, hookimpl
from gateway.calls.body import Body, Source
from gateway.config import Worker as Server
from gateway.errors import InvalidJSON
from gateway.fleet.registry import Workers
from gateway.plugins.loader import Plugins
from gateway.testing import (
    DONE,
    GatewayFor,
    Live,
    ScriptedWorker,
    answer_of,
    entry,
    make_call,
    sse,
)

DECIDING = ["authenticate", "admit", "prepare", "handle", "filter_workers", "pick_worker"]
WATCHING = [
    "observe",
    "observer.started",
    "observer.data",
    "observer.event",
    "observer.delta",
    "attempt_finished",
    "observer.finished",
    "call_finished",
]
PLAIN = answer_of(b'{"choices": [{"index": 0, "message": {"content": "Hi"}}]}')
EVENT = sse({"choices": [{"index": 0, "delta": {"content": "Hi"}}]})
STREAM = answer_of(EVENT + EVENT + DONE, content_type="text/event-stream")

BREAKS = [
    (kind, hook, how)
    for kind in ("plain", "stream")
    for hook in WATCHING
    for how in ("breaks", "refuses", "is cancelled")
    if not (hook == "observer.event" and kind == "plain")  # a plain answer has no events
    if not (how == "is cancelled" and hook.startswith("observe"))  # these wait for nothing
]


FORMS = [Breaking, BreakingAtOnce, BreakingLater]


async def post(live: Live) -> httpx.Response:
    body = {"model": "sim", "messages": []}
    return await live.client.post("/v1/chat/completions", json=body)


@pytest.mark.parametrize("plugin", FORMS)
@pytest.mark.parametrize("how", ["breaks", "is cancelled"])
@pytest.mark.parametrize("hook", DECIDING)
async def test_deciding_hook_that_fails_rejects_the_call(
    gateway_for: GatewayFor,
    caplog: pytest.LogCaptureFixture,
    hook: str,
    how: str,
    plugin: type[Breaking],
) -> None:
    async with ScriptedWorker(PLAIN) as worker:
        live = await gateway_for(entry(plugin, at=hook, how=how), Witness, workers=[worker.url])
        answers = [await post(live), await post(live)]
    for answer in answers:
        assert answer.status_code == 500
        assert answer.json() == {
            "error": {
                "message": f"the plugin {plugin.__name__!r} failed while deciding on this call",
                "type": "server_error",
                "param": None,
                "code": "hook_failed",
            }
        }
    assert worker.connections == []
    what = f"plugin {plugin.__name__} broke in {hook}; the call is refused"
    assert caplog.messages == [what] * 2
    assert caplog.text.count("in _reach") == 2, "with the traceback"
    outcomes = live.plugin(Witness).outcomes
    assert [outcome.error and outcome.error.code for outcome in outcomes] == ["hook_failed"] * 2
    assert live.plugin(plugin).seen[-1] == "call_finished", "it is recorded like any other"


@pytest.mark.parametrize("plugin", FORMS)
@pytest.mark.parametrize("hook", DECIDING)
async def test_deciding_hook_rejects_the_call_by_a_call_error(
    gateway_for: GatewayFor, caplog: pytest.LogCaptureFixture, hook: str, plugin: type[Breaking]
) -> None:
    async with ScriptedWorker(PLAIN) as worker:
        breaking = entry(plugin, at=hook, how="refuses")
        live = await gateway_for(breaking, workers=[worker.url])
        answer = await post(live)
    assert (answer.status_code, answer.headers["x-why"]) == (403, "a whim")
    assert answer.json()["error"]["code"] == "refused"
    assert worker.connections == []
    assert caplog.messages == []


@pytest.mark.parametrize("plugin", FORMS)
@pytest.mark.parametrize(("kind", "hook", "how"), BREAKS)
async def test_observing_hook_that_fails_is_isolated(
    gateway_for: GatewayFor,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    hook: str,
    how: str,
    plugin: type[Breaking],
) -> None:
    answer = PLAIN if kind == "plain" else STREAM
    name = plugin.__name__
    async with ScriptedWorker(answer) as worker:
        breaking = entry(plugin, at=hook, how=how)
        live = await gateway_for(breaking, Recorder, Witness, workers=[worker.url])
        answers = [await post(live), await post(live)]
    sent = answer.partition(b"\r\n\r\n")[2]
    assert [(one.status_code, one.content) for one in answers] == [(200, sent)] * 2
    assert live.gateway.chains.failures.counts == {(name, hook): 2}
    assert [outcome.failures for outcome in live.plugin(Witness).outcomes] == [[name]] * 2
    [logged] = caplog.messages
    assert logged == f"plugin {name} broke in {hook}; further failures of it are only counted"
    others = [name for name, _ in live.plugin(Recorder).seen]
    assert others.count("finished") == others.count("started") == 2, "the other plugins go on"


@pytest.mark.parametrize("plugin", FORMS)
@pytest.mark.parametrize(
    ("how", "hook", "allowed"),
    [
        *(("answers", hook, "admit") for hook in DECIDING if hook != "admit"),
        *(("chooses", hook, "filter_workers and pick_worker") for hook in DECIDING[:4]),
    ],
)
async def test_decision_of_another_hook_is_a_failure(
    gateway_for: GatewayFor, how: str, hook: str, allowed: str, plugin: type[Breaking]
) -> None:
    """An answer that is raised after admission would pass by those who observe and record."""
    async with ScriptedWorker(PLAIN) as worker:
        live = await gateway_for(entry(plugin, at=hook, how=how), Witness, workers=[worker.url])
        answer = await post(live)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "hook_failed")
    name = {"answers": "Answered", "chooses": "ChooseAgain"}[how]
    why = f"this call: {hook} raised {name}, which only {allowed} may raise"
    assert answer.json()["error"]["message"].endswith(why)
    assert worker.connections == []
    assert live.plugin(Witness).outcomes[0].result == "error"


@pytest.mark.parametrize("plugin", FORMS)
async def test_admit_answers_a_call_by_raising_the_answer(
    gateway_for: GatewayFor, caplog: pytest.LogCaptureFixture, plugin: type[Breaking]
) -> None:
    async with ScriptedWorker(PLAIN) as worker:
        live = await gateway_for(entry(plugin, at="admit", how="answers"), workers=[worker.url])
        answer = await post(live)
    assert (answer.status_code, answer.content) == (200, b"at once")
    assert (worker.connections, caplog.messages) == ([], [])


class Odd:
    """A plugin whose observers have an attribute of its own that is called `collectors`."""

    class _Observer:
        collectors = 3

        def __init__(self) -> None:
            self.outcome: Outcome | None = None

        def finished(self, outcome: Outcome) -> None:
            self.outcome = outcome

    def __init__(self) -> None:
        self.observers: list[Odd._Observer] = []

    @hookimpl
    def observe(self, call: Call) -> object:
        self.observers.append(self._Observer())
        return self.observers[-1]


async def test_observer_whose_collectors_are_none_is_isolated(gateway_for: GatewayFor) -> None:
    async with ScriptedWorker(STREAM) as worker:
        live = await gateway_for(Odd, Witness, workers=[worker.url])
        answer = await post(live)
    assert answer.status_code == 200
    assert live.gateway.chains.failures.counts == {("Odd", "observer.collectors"): 1}
    [observer], [outcome] = live.plugin(Odd).observers, live.plugin(Witness).outcomes
    assert observer.outcome is outcome, "its methods are called"
    assert outcome.failures == ["Odd"]


async def test_observer_method_that_raised_is_skipped_for_the_rest_of_a_call(
    gateway_for: GatewayFor,
) -> None:
    async with ScriptedWorker(STREAM) as worker:
        live = await gateway_for(entry(Breaking, at="observer.delta"), workers=[worker.url])
        await post(live)
    seen = live.plugin(Breaking).seen
    assert (seen.count("observer.delta"), seen.count("observer.event")) == (1, 3)


@pytest.mark.parametrize("plugin", FORMS)
async def test_finish_hooks_run_for_attempt_then_observer_then_call(
    gateway_for: GatewayFor, plugin: type[Breaking]
) -> None:
    async with ScriptedWorker(STREAM) as worker:
        live = await gateway_for(plugin, workers=[worker.url])
        await post(live)
    seen = [one for one in live.plugin(plugin).seen if one not in WATCHING[2:5]]
    assert seen == [
        "authenticate",
        "admit",
        "prepare",
        "observe",
        "handle",
        "filter_workers",
        "pick_worker",
        "observer.started",
        "attempt_finished",
        "observer.finished",
        "call_finished",
    ]


class AtOnce:
    """Hooks that are plain functions; each gives a result for the path of its own letter."""

    letter = "a"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def _mine(self, call: Call, hook: str) -> bool:
        self.asked.append(hook)
        return self.letter in call.path

    @hookimpl
    def authenticate(self, call: Call) -> Principal | Awaitable[Principal | None] | None:
        return Principal(self.letter) if self._mine(call, "authenticate") else None

    @hookimpl
    def admit(self, call: Call) -> Awaitable[None] | None:
        self._mine(call, "admit")
        return None

    @hookimpl
    def handle(self, call: Call) -> Answer | Awaitable[Answer | None] | None:
        return Answer(body=self.letter.encode()) if self._mine(call, "handle") else None

    @hookimpl
    def filter_workers(
        self, call: Call, workers: Sequence[Worker]
    ) -> Sequence[Worker] | Awaitable[Sequence[Worker]]:
        return workers[1:] if self._mine(call, "filter_workers") else workers

    @hookimpl
    def pick_worker(
        self, call: Call, workers: Sequence[Worker]
    ) -> Worker | Awaitable[Worker | None] | None:
        return workers[0] if self._mine(call, "pick_worker") else None


class Later(AtOnce):
    """The same by futures that are done later."""

    letter = "b"

    @hookimpl
    async def authenticate(self, call: Call) -> Principal | None:
        await asyncio.sleep(0)
        return Principal(self.letter) if self._mine(call, "authenticate") else None

    @hookimpl
    def admit(self, call: Call) -> Awaitable[None]:
        return self._later(super().admit(call))

    @hookimpl
    def handle(self, call: Call) -> Awaitable[Answer | None]:
        return self._later(super().handle(call))

    @hookimpl
    def filter_workers(self, call: Call, workers: Sequence[Worker]) -> Awaitable[Sequence[Worker]]:
        return self._later(super().filter_workers(call, workers))

    @hookimpl
    def pick_worker(self, call: Call, workers: Sequence[Worker]) -> Awaitable[Worker | None]:
        return self._later(super().pick_worker(call, workers))

    def _later(self, result: Any) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        loop.call_soon(future.set_result, result)
        return future


class AtOnceToo(AtOnce):
    letter = "c"


async def waited(result: Any) -> Any:
    return await result if inspect.iscoroutine(result) else result


@pytest.mark.parametrize(("path", "asked"), [("/a", 1), ("/b", 2), ("/c", 3), ("/bc", 2)])
async def test_hooks_that_return_at_once_and_hooks_that_wait_share_a_chain(
    path: str, asked: int
) -> None:
    plugins = Plugins([entry(AtOnce), entry(Later), entry(AtOnceToo)])
    chains, call = plugins.chains(), make_call(path=path)
    workers = Workers(Config(workers=tuple(Server(url=f"http://{host}") for host in "abcd"))).all
    await waited(chains.identify(call))
    assert call.principal == Principal(path[1])
    await waited(chains.run_admit(call))
    assert (await waited(chains.first_answer(call))).body == path[1:2].encode()
    assert await waited(chains.filtered_workers(call, workers)) == workers[len(path) - 1 :]
    assert await waited(chains.picked_worker(call, workers)) is workers[0]
    for place, plugin in enumerate(plugins.loaded):
        first = ["authenticate", "admit", "handle", "filter_workers", "pick_worker"]
        assert plugin.object.asked == (first if place < asked else ["admit", "filter_workers"])


async def test_chain_of_hooks_that_return_at_once_makes_no_coroutine() -> None:
    chains, call = Plugins([entry(AtOnce), entry(AtOnceToo)]).chains(), make_call(path="/c")
    workers = Workers(Config(workers=(Server(url="http://a"), Server(url="http://b")))).all
    assert chains.identify(call) is None
    assert chains.run_admit(call) is None
    assert chains.filtered_workers(call, workers) == workers[1:]
    assert chains.picked_worker(call, workers) is workers[0]


async def test_wait_of_a_plain_hook_is_cancelled_if_the_caller_leaves(
    gateway_for: GatewayFor,
) -> None:
    live = await gateway_for(Stuck, Witness)
    stuck = live.plugin(Stuck)
    waiting = asyncio.create_task(post(live))
    await stuck.reached.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stuck.room
    await until(lambda: bool(live.plugin(Witness).outcomes))
    assert live.plugin(Witness).outcomes[0].result == "caller_gone"


class Stuck:
    """Returns a future that nobody completes."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.room = asyncio.get_running_loop().create_future()

    @hookimpl
    def admit(self) -> Awaitable[None]:
        self.reached.set()
        return self.room


class Injecting:
    """Returns what `inject` and `set` return."""

    @hookimpl
    def prepare(self, call: Call) -> Awaitable[None]:
        return call.set("n", 2) if call.header("x-set") else call.inject("token_ids")


@pytest.mark.parametrize("asks", ["x-set", "x-inject"])
async def test_plain_hook_may_return_what_inject_and_set_return(asks: str) -> None:
    chains = Plugins([entry(Injecting)]).chains()
    whole = make_call({"model": "sim"}, headers={asks: "1"})
    assert chains.run_prepare(whole) is None, "the body is read, so there is nothing to wait for"
    late = make_call(headers={asks: "1"})
    late.body = Body(source=chunk_of(b'{"model": "sim"}'))
    await waited(chains.run_prepare(late))
    broken = make_call(headers={asks: "1"})
    broken.body = Body(source=chunk_of(b"{"))
    with pytest.raises(InvalidJSON):
        await waited(chains.run_prepare(broken))
    for call in (whole, late):
        assert call.overwritten == ({"n": 2} if asks == "x-set" else {})
        assert call._wanted == (None if asks == "x-set" else {"token_ids"})


def chunk_of(data: bytes) -> Source:
    async def source() -> tuple[bytes, bool]:
        return data, False

    return source
