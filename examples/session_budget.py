"""Reject calls of a session that has used up its tokens; aborted calls count too."""

from collections import Counter

import msgspec

from gateway import Call, Delta, TooManyRequests, hookimpl


class Meter:
    def __init__(self, used: Counter[str], session: str) -> None:
        self.used, self.session = used, session

    def delta(self, delta: Delta) -> None:
        self.used[self.session] += sum(len(choice.token_ids) for choice in delta.choices)


class SessionBudget:
    after = ("sessions",)

    class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        tokens: int = 100_000

    def __init__(self, config: Config) -> None:
        self.config, self.used = config, Counter[str]()

    @hookimpl
    async def admit(self, call: Call) -> None:
        if self.used[call.session_id or ""] >= self.config.tokens:
            raise TooManyRequests("this session has used up its tokens", code="budget_used_up")

    @hookimpl
    async def prepare(self, call: Call) -> None:
        await call.inject("token_ids")

    @hookimpl
    def observe(self, call: Call) -> Meter:
        return Meter(self.used, call.session_id or "")
