"""Whether the engine makes the same prompt of a request as of its translation."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Literal, get_args

from gateway import Call, StateKey, Worker
from gateway_plugins.translate.habits import CHAT_RENDER, render

Found = Literal["equal", "differs", "unanswered"]

FOUND: tuple[Found, ...] = get_args(Found)

PATHS: Mapping[str, str] = {"messages": "/v1/messages/render", "responses": "/v1/responses/render"}
"""Where an engine renders the requests of an API."""

MAX_WAIT = 5.0
"""Seconds that the last byte of a call waits for its check."""

CHECK = StateKey["asyncio.Task[Found]"]("translate.check")


class PromptChecks:
    """Runs checks beside their calls; `counts` is what they found."""

    def __init__(self) -> None:
        self.counts: Counter[Found] = Counter()

    def begin(self, call: Call, api: str, worker: Worker, asked: bytes, made: bytes) -> None:
        """Check a call; `asked` and `made` are the bodies before and after."""
        checking = _check(call, worker, PATHS[api], asked, made)
        call.state[CHECK] = asyncio.create_task(checking)

    async def end(self, check: "asyncio.Task[Found]") -> None:
        """Wait until the check is done, so that its reason goes to the trace."""
        await asyncio.wait((check,), timeout=MAX_WAIT)
        if not check.done():
            check.cancel()
        done = check.done() and not check.cancelled() and check.exception() is None
        self.counts[check.result() if done else "unanswered"] += 1


async def _check(call: Call, worker: Worker, path: str, asked: bytes, made: bytes) -> Found:
    theirs, ours = await asyncio.gather(
        render(worker, path, asked), render(worker, CHAT_RENDER, made)
    )
    if theirs is None or ours is None:
        return "unanswered"
    if theirs == ours:
        return "equal"
    both = zip(theirs, ours, strict=False)
    shorter = min(len(theirs), len(ours))
    at = next((place for place, (one, other) in enumerate(both) if one != other), shorter)
    words = f"{len(theirs)} prompt tokens, and {len(ours)} translated; token {at} is the first"
    call.note("prompt_differs", f"{words} that differs")
    return "differs"
