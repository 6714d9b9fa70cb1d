"""What the engine of a model does with a request that Messages has and chat has not.

vLLM decides both by its chat template when it starts, and tells nobody. `/tokenize` shows whether
the template takes a system message in the middle, and rendered chats whether it knows an effort.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec

from gateway import NOT_JSON, CallError, Habits, Worker

TOKENIZE = "/tokenize"
CHAT_RENDER = "/v1/chat/completions/render"

REFUSED = (400, 422, 500)
"""Statuses of a prompt that the template cannot make."""

EFFORTS = ("low", "medium", "high", "xhigh", "max")

TIMEOUT = 10.0
"""Seconds for each question."""

MAX_KNOWN = 1_000
"""Maximum models that are remembered."""

JSON = ((b"content-type", b"application/json"),)

Key = tuple[str, str]
"""URL of the worker, and the model."""


class _Tokens(msgspec.Struct):
    count: int


class _Rendered(msgspec.Struct):
    token_ids: list[int]


class EngineHabits:
    """Asks the engines, each once for a model, and remembers."""

    def __init__(self) -> None:
        self._known: dict[Key, Habits] = {}

    def known(self, workers: Sequence[Worker], model: str) -> Habits:
        """Return what is known of the engines of `model`; all of them are taken to be alike."""
        for worker in workers:
            found = self._known.get((worker.url, model))
            if found is not None:
                return found
        return Habits()

    async def ask(self, workers: Sequence[Worker], model: str) -> Habits:
        """Ask the first of the workers that answers; what cannot be found out stays None."""
        for worker in workers:
            found = Habits(await _merges_system(worker, model), await _effort(worker, model))
            if found != Habits():
                if len(self._known) >= MAX_KNOWN:
                    self._known.clear()
                self._known[worker.url, model] = found
                return found
        return Habits()


async def count_tokens(worker: Worker, body: bytes) -> int | None:
    """Return the tokens of a chat request's prompt; None if the worker cannot count them."""
    found = await _ask(worker, TOKENIZE, body)
    return None if not isinstance(found, _Tokens) else found.count


async def render(worker: Worker, path: str, body: bytes) -> list[int] | None:
    """Return the token ids of a request's prompt; None if the worker does not tell."""
    found = await _ask(worker, path, body)
    return None if not isinstance(found, _Rendered) else found.token_ids


async def _merges_system(worker: Worker, model: str) -> bool | None:
    """Ask for a prompt with system messages in the middle: templates refuse what they cannot do."""
    roles = ("system", "user", "system", "user")
    messages = [{"role": role, "content": "t"} for role in roles]
    body = msgspec.json.encode({"model": model, "messages": messages})
    found = await _ask(worker, TOKENIZE, body)
    if isinstance(found, _Tokens):
        return False
    return True if found in REFUSED else None


async def _effort(worker: Worker, model: str) -> Literal["none", "low"] | None:
    """Find the effort for thinking that is off: `none`, unless it makes the prompt of another."""
    without = await _prompt(worker, model, "none")
    if not isinstance(without, list):
        return "low" if without in REFUSED else None
    for effort in EFFORTS:
        if await _prompt(worker, model, effort) == without:
            return "low"
    return "none"


async def _prompt(worker: Worker, model: str, effort: str) -> list[int] | int | None:
    """Return the prompt; the status if the engine refuses it, None if it does not answer."""
    messages = [{"role": "user", "content": "Hi"}]
    body = {"model": model, "messages": messages, "reasoning_effort": effort}
    found = await _ask(worker, CHAT_RENDER, msgspec.json.encode(body))
    return found.token_ids if isinstance(found, _Rendered) else _status(found)


def _status(found: _Tokens | _Rendered | int | None) -> int | None:
    return found if isinstance(found, int) else None


async def _ask(worker: Worker, path: str, body: bytes) -> _Tokens | _Rendered | int | None:
    """Return the answer, the status of an error, or None if there is no answer to read."""
    try:
        answer = await worker.request("POST", path, body, headers=JSON, timeout=TIMEOUT)
    except CallError:
        return None
    if answer.status != 200:
        return answer.status
    try:
        return msgspec.json.decode(answer.body, type=_Tokens if path == TOKENIZE else _Rendered)
    except NOT_JSON:
        return None
