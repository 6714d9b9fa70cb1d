"""`outcome.repeated`: a job says of its call whether the work runs again in another one."""

import pytest
from support.gateways.dispatching import plugin_of

from gateway import Call, Outcome, TooManyRequests, hookimpl
from gateway.testing import GatewayFor, make_call

ENDS = [
    pytest.param(None, 200, id="served"),
    pytest.param(b"{", 400, id="no-json"),
    pytest.param({"model": "refused"}, 429, id="refused-before-it-is-observed"),
]


class Judged:
    """Refuses a model, and keeps `repeated` as the hooks see it at the end."""

    def __init__(self) -> None:
        self.seen: list[bool] = []

    @hookimpl
    async def admit(self, call: Call) -> None:
        if call.model == "refused":
            raise TooManyRequests("not now")

    @hookimpl
    async def call_finished(self, outcome: Outcome) -> None:
        self.seen.append(outcome.repeated)


@pytest.mark.parametrize(("body", "status"), ENDS)
async def test_job_is_asked_once_whether_its_work_runs_again(
    gateway_for: GatewayFor, body: dict[str, object] | bytes | None, status: int
) -> None:
    live = await gateway_for(Judged)
    asked: list[int] = []

    def runs_again(call: Call) -> bool:
        asked.append(call.outcome.status)
        return len(asked) == 1

    for _ in range(2):
        call = make_call(body, headers={"content-type": "application/json"})
        call.internal, call.runs_again = True, runs_again
        await live.gateway.dispatch(call)
    assert asked == [status] * 2
    assert plugin_of(live.gateway, Judged).seen == [True, False]


async def test_call_of_a_caller_is_never_repeated(gateway_for: GatewayFor) -> None:
    live = await gateway_for(Judged)
    await live.client.post("/v1/chat/completions", content=b"{")
    assert plugin_of(live.gateway, Judged).seen == [False]
