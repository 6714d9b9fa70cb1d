"""The target of responses and events of which only the tokens are read."""

from collections.abc import Iterator, Sequence
from random import Random

from support.records.mutated_answers import recorded_answers

from fuzz.target import Differs
from gateway import Usage
from gateway.kernel.interface import Functions
from gateway.wire.reported.usage import read_usage

MOST = 20_000
"""Bytes of a response, so that many can be tried."""


class Usages:
    """Whole plain responses, and the events of streams that report tokens."""

    name = "usages"

    def __init__(self) -> None:
        self._seeds = sorted(set(_texts()))

    def seeds(self) -> Sequence[bytes]:
        return self._seeds

    def compare(self, native: Functions, given: bytes, random: Random) -> bool:
        given = _beside(given, random)
        found = native.read_usage(given)
        if found is None:
            return False
        told = read_usage(given)
        if told is None or not (told.prompt_tokens and told.completion_tokens):
            raise Differs(f"{found} are not told by {given!r}")
        if Usage(*found) != told.read():
            raise Differs(f"{found} is not {told.read()} of {given!r}")
        return True


def _beside(text: bytes, random: Random) -> bytes:
    """Mostly `text` itself; else with more fields of a usage, or beside it."""
    more = random.choice(MORE) if random.random() < 0.5 else (b"", b"")
    return text.replace(more[0], more[1], 1)


MORE: Sequence[tuple[bytes, bytes]] = (
    (b'"usage":{', b'"usage":{"completion_tokens_details":{"reasoning_tokens":3},'),
    (b'"usage":{', b'"usage":{"prompt_tokens_details":{"cached_tokens":2,"x":[1,{}]},'),
    (b'"usage":{', b'"usage":{"prompt_tokens_details":null,'),
    (b'"usage":{', b'"usage":{"input_tokens":2,'),
    (b'"usage":{', b'"usage":{"reasoning_tokens":2,'),
    (b'"usage":', b'"timings":{"cache_n":2},"usage":'),
    (b'"usage":', b'"usage":{"prompt_tokens":1,"completion_tokens":1},"usage":'),
    (b'"usage":', b'"usage" :{"prompt_tokens":1},"usage":'),
    (b'"usage":', b'"response":{"usage":'),
    (b'"id":', b'"message":{"usage":{"input_tokens":1}},"id":'),
)


def _texts() -> Iterator[bytes]:
    for one in recorded_answers():
        if one.streamed:
            events = one.body.split(b"\n\n")
            yield from (event[6:] for event in events if b'"usage":{' in event)
        elif len(one.body) <= MOST:
            yield one.body
