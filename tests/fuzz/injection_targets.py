"""The target of injections: whole plain answers out of which they are taken."""

from collections.abc import Sequence
from random import Random

from support.records.mutated_answers import recorded_answers

from fuzz.target import Differs
from gateway.kernel.interface import Functions
from gateway.wire.injection import Injection, Stripper

KINDS: Sequence[frozenset[Injection]] = (
    frozenset(("token_ids", "logprobs")),
    frozenset(("token_ids",)),
    frozenset(("logprobs",)),
)
MOST = 20_000
"""Bytes of an answer, so that many can be tried."""


class PlainAnswers:
    """Whole plain answers of chat and completions."""

    name = "plain-answers"

    def __init__(self) -> None:
        bodies = {one.body for one in recorded_answers() if not one.streamed}
        self._seeds = sorted(body for body in bodies if len(body) <= MOST)

    def seeds(self) -> Sequence[bytes]:
        return self._seeds

    def compare(self, native: Functions, given: bytes, random: Random) -> bool:
        injected = random.choice(KINDS)
        found = native.strip_answer(given, "token_ids" in injected, "logprobs" in injected)
        if found is None:
            return False
        wanted = Stripper(injected).plain(given)
        if found != wanted:
            raise Differs(f"{found!r} is not {wanted!r}")
        return True
