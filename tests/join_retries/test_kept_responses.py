"""Whatever happens in whatever order: each one gets a prefix of one response, or all of it."""

import asyncio
from collections.abc import Sequence

from gateway_plugins.join_retries.asked import request_of
from gateway_plugins.join_retries.options import Options
from gateway_plugins.join_retries.response import KeptResponse
from gateway_plugins.join_retries.shelf import Responses
from hypothesis import example, given
from hypothesis import strategies as st

from gateway import CallerGone, UpstreamError, outlast
from gateway.testing import RecordedCall, make_call

MIB = 1 << 20
GRACE = 9.0
STEPS = st.lists(
    st.sampled_from(
        ["write", "large", "leave", "join", "join by key", "part", "wait", "end", "cut"]
    )
)


class Clock(asyncio.SelectorEventLoop):
    """Its time can be put forward, so that nobody has to wait for a timer."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead


class Retry:
    """Reads a response to its end, as far as it may."""

    def __init__(self, kept: KeptResponse) -> None:
        kept.follow()
        self.kept, self.got, self.broken, self.here = kept, b"", False, True
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async for piece in self.kept.body():
                self.got += piece
        except UpstreamError:
            self.broken = True

    def part(self) -> None:
        self.here = False
        self.reading.cancel()
        self.kept.unfollow(got_all=False)


class Story:
    """One call, its caller, its retries, and what was sent."""

    def __init__(self) -> None:
        options = Options(max_bytes=MIB, max_response_bytes=MIB // 2, grace=GRACE)
        self.responses = Responses(options)
        self.call: RecordedCall = make_call(headers={"x-stainless-retry-count": "0"})
        self.kept = KeptResponse(self.call, request_of(self.call, "key"), self.responses)
        assert self.responses.add(self.kept)
        behind = outlast(self.call, self.kept)
        assert behind is self.call.caller
        self.kept.stand_before(behind)
        self.kept.start(200, [])
        self.sent, self.before_leaving, self.retries = b"", b"", list[Retry]()
        self.left = self.closed = False

    async def take(self, step: str) -> None:
        match step:
            case "write" | "large":
                piece = b"%d " % len(self.sent) * (40_000 if step == "large" else 1)
                self.sent += piece
                self.kept.write(piece)
            case "leave":
                self.before_leaving = self.before_leaving if self.left else self.sent
                self.left = True
                self.call.cancel(CallerGone())
                if self.kept.state == "over":  # the call does not go on, so the core ends it
                    self.closed = True
                    self.kept.cut()
            case "join" | "join by key":
                find = self.responses.left if step == "join" else self.responses.of_key
                found = find(self.kept.request)
                assert found in (None, self.kept)
                if found is not None:
                    self.retries.append(Retry(found))
            case "part":
                for retry in [one for one in self.retries if one.here][:1]:
                    retry.part()
            case "wait":
                await self.wait()
            case "end":
                self.closed = True
                await self.kept.end(b"last")
                self.sent += b"last"
            case "cut":
                self.closed = True
                self.kept.cut()
        await asyncio.sleep(0)
        assert self.responses.used <= MIB

    async def wait(self) -> None:
        """Let the time of grace pass: it ends a call whose response nobody gets, and no other."""
        before, alone = self.kept.state, self.alone()
        clock = asyncio.get_running_loop()
        assert isinstance(clock, Clock)
        clock.ahead += GRACE + 1
        for _ in range(3):
            await asyncio.sleep(0)
        assert self.kept.state == ("over" if alone else before)
        if alone:
            self.closed = True
            self.kept.cut()  # as the core does after `Call.cancel`

    def alone(self) -> bool:
        return self.kept in self.responses.alone()


def tell(steps: Sequence[str]) -> None:
    with asyncio.Runner(loop_factory=Clock) as runner:
        runner.run(told(steps))


async def told(steps: Sequence[str]) -> None:
    story = Story()
    for step in steps:
        if story.closed and step in ("write", "large", "leave", "end", "cut"):
            continue
        await story.take(step)
        here = [one for one in story.retries if one.here]
        running = story.kept.state == "running"
        assert story.alone() == (running and story.left and not here)
    if not story.closed:
        await story.take("cut")
    for _ in range(3):
        await asyncio.sleep(0)
    for retry in story.retries:
        if retry.here:
            whole = story.kept.state == "whole"
            assert retry.broken is not whole
            assert retry.got == story.sent if whole else story.sent.startswith(retry.got)
            retry.kept.unfollow(got_all=whole)
        await asyncio.gather(retry.reading, return_exceptions=True)
    seen = story.call.caller.body
    assert seen == (story.before_leaving if story.left else story.sent)
    assert not story.alone()
    story.responses.clear()
    assert story.responses.used == 0


@example(["write", "leave", "join", "write", "end"])
@example(["write", "leave", "join", "write", "part", "cut", "join"])
@example(["write", "join by key", "leave", "wait", "write", "end"])
@example(["join by key", "leave", "join by key", "part", "wait", "part", "wait", "join"])
@example(["leave", "join", "part", "join", "wait", "part", "wait"])
@example(["leave", "write", "leave"])
@example(["large", "large", "join by key", "large", "leave", "write"])
@given(STEPS)
def test_each_retry_gets_all_or_a_prefix_and_all_room_is_given_back(steps: list[str]) -> None:
    tell(steps)


def test_large_response_of_a_caller_that_left_ends_its_call() -> None:
    tell(["write", "leave", "join", *["large"] * 9, "end", "join"])


async def test_call_whose_response_somebody_gets_is_not_given_up() -> None:
    story = Story()
    story.kept.follow()
    await story.take("leave")
    story.kept.give_up()
    read = story.kept.state
    story.kept.unfollow(got_all=False)
    story.kept.give_up()
    assert (read, story.kept.state) == ("running", "over")
