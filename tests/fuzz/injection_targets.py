"""Targets of injections: requests to which members are added, and whole plain answers."""

from collections.abc import Sequence
from random import Random

import msgspec
from support.records.mutated_answers import recorded_answers
from support.records.vllm_recordings import OTHER_ENGINES, load

from fuzz.target import Differs
from gateway.errors import NOT_JSON
from gateway.kernel.interface import Functions
from gateway.wire.injection import Injection, Stripper, rewrite

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


class Requests:
    """Bodies of requests, to which members are added if they are JSON objects."""

    name = "requests"

    def __init__(self) -> None:
        found = [*load().values(), *load(OTHER_ENGINES).values()]
        self._seeds = sorted({one.request_body for one in found if len(one.request_body) <= MOST})

    def seeds(self) -> Sequence[bytes]:
        return self._seeds

    def compare(self, native: Functions, given: bytes, random: Random) -> bool:
        found = native.append_members(given, b',"added":[1],"other":null')
        if found is None or not _is_json(given):
            return False
        wanted = rewrite(given, {"added": [1], "other": None})
        if found != wanted and b'"added"' not in given and b'"other"' not in given:
            raise Differs(f"{found!r} is not {wanted!r}")
        return True


def _is_json(text: bytes) -> bool:
    try:
        msgspec.json.decode(text)
    except NOT_JSON:
        return False
    return True
