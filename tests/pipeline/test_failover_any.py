"""Whatever workers do, in whatever order: one answer, and no generation runs twice unasked."""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from support.gateways.dispatching import gateway_of
from support.gateways.event_loop import Stage
from support.steady import steady
from support.workers.failing_worker import (
    OK,
    QUICK,
    assert_idle,
    closes,
    is_silent,
    refusal,
    resets,
    resets_unread,
    unreachable,
)

from gateway import Call, Gateway, StateKey, Worker, hookimpl
from gateway.config import Timeouts
from gateway.fleet.probing import pulse
from gateway.testing import RecordedCall, ScriptedConnection, ScriptedWorker, make_call

SCRIPTS: Mapping[str, bytes | Callable[[ScriptedConnection], Awaitable[None]]] = {
    "answers": OK,
    "busy": refusal(503),
    "limits": refusal(429),
    "closes": closes,
    "resets": resets,
    "resets unread": resets_unread,
    "is silent": is_silent,
}
RUNS = {"answers", "closes", "resets", "is silent"}
"""What those that do this have done to a generation before, as far as anybody knows."""

MOST = 3
PLAN = StateKey[list[str]]("plan")


class Planned:
    """Leaves those workers of a call's plan that were not asked yet, the next one first."""

    @hookimpl
    async def filter_workers(self, call: Call, workers: Sequence[Worker]) -> Sequence[Worker]:
        by_id = {worker.id: worker for worker in workers}
        return [by_id[one] for one in call.state[PLAN] if one in by_id]

    @hookimpl
    async def pick_worker(self, call: Call, workers: Sequence[Worker]) -> Worker:
        return workers[0]


class Field:
    """Workers of every behaviour, as many as one call may ask, and a gateway before them."""

    def __init__(self) -> None:
        self.gateways: dict[bool, Gateway] = {}
        self.workers: dict[str, list[ScriptedWorker]] = {}
        self.ids: dict[str, list[str]] = {}
        self.calls = count()

    def executions(self) -> Counter[str]:
        """How often each call was run, by its id."""
        requests = [
            request
            for behaviour, workers in self.workers.items()
            if behaviour in RUNS
            for worker in workers
            for request in worker.requests
        ]
        rests = (request.partition(b"x-request-id: ")[2] for request in requests)
        return Counter(rest.partition(b"\r\n")[0].decode() for rest in rests)


@asynccontextmanager
async def field_of_workers() -> AsyncIterator[Field]:
    field = Field()
    async with AsyncExitStack() as stack:
        urls = [stack.enter_context(unreachable()) for _ in range(MOST)]
        names = {"refuses": urls}
        for behaviour, script in SCRIPTS.items():
            workers = [ScriptedWorker(script) for _ in range(MOST)]
            names[behaviour] = [(await stack.enter_async_context(one)).url for one in workers]
            field.workers[behaviour] = workers
        field.ids = {
            name: [url.removeprefix("http://") for url in urls] for name, urls in names.items()
        }
        for rerun in (False, True):
            gateway = gateway_of(
                Planned,
                workers=[url for urls in names.values() for url in urls],
                timeouts=Timeouts(first_byte=0.2),
                failover=replace(QUICK, max_workers=MOST, rerun=rerun),
            )
            field.gateways[rerun] = await stack.enter_async_context(gateway)
        yield field


async def never(_: pulse.Pulse) -> None:
    pass


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with Stage() as opened:
        yield opened


@pytest.fixture(scope="module")
def field(stage: Stage) -> Iterator[Field]:
    with pytest.MonkeyPatch.context() as patch:  # a worker that refused once is not looked at again
        patch.setattr(pulse.Pulse, "_connect", never)
        yield stage.enter(field_of_workers())


def foretold(plan: Sequence[str], *, rerun: bool) -> tuple[int, int]:
    """The status that the caller is told, and how many workers are asked.

    Those that refuse the connection do not count among the MOST that may be asked.
    """
    status, counted = 503, 0
    for asked, behaviour in enumerate(plan, 1):
        counted += behaviour != "refuses"
        status = {"answers": 200, "busy": 503, "limits": 429, "is silent": 504}.get(behaviour, 502)
        repeats = {"refuses": True, "busy": True, "limits": counted == 1, "answers": False}
        if not repeats.get(behaviour, rerun) or (counted == MOST and behaviour != "refuses"):
            return status, asked
    return status, len(plan)


async def dispatch(gateway: Gateway, number: int, ids: list[str]) -> RecordedCall:
    call = make_call(headers={"x-request-id": f"call-{number}"})
    call.state[PLAN] = ids
    for worker in gateway.workers.all:
        worker.clear("probe")  # those that refused the connection of an earlier call
    gateway.proxy.calls += 10  # as if others, which went well, had filled the budget
    await gateway.proxy.dispatch(call)
    return call


@settings(max_examples=40)
@given(
    plan=st.lists(st.sampled_from(["refuses", *SCRIPTS]), max_size=4).filter(
        lambda plan: max(Counter(plan).values(), default=0) <= MOST
    ),
    rerun=st.booleans(),
)
def test_failover_gives_one_response_and_never_repeats_without_rerun(
    stage: Stage, field: Field, plan: list[str], *, rerun: bool
) -> None:
    stage.run(check(field, plan, rerun=rerun))


@steady
async def check(field: Field, plan: list[str], *, rerun: bool) -> None:
    seen: Counter[str] = Counter()
    ids = []
    for behaviour in plan:
        ids.append(field.ids[behaviour][seen[behaviour]])
        seen[behaviour] += 1
    gateway = field.gateways[rerun]
    call = await dispatch(gateway, next(field.calls), ids)

    assert (call.caller.is_ended, call.caller.is_cut) == (True, False)
    assert (call.caller.status, len(call.attempts)) == foretold(plan, rerun=rerun)
    assert [attempt.worker.id for attempt in call.attempts] == ids[: len(call.attempts)]
    if not rerun:
        assert field.executions()[call.id] <= 1
    assert_idle(gateway)
