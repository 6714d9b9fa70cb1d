"""Targets of the record's part of the kernel: responses of chat and completions, and numbers."""

from collections.abc import Sequence
from random import Random

from gateway_plugins.trace_capture.answers.assembly import assemble
from support.records.mutated_answers import mutated, number, recorded_answers

from fuzz.target import Differs
from gateway.kernel import Kernel
from gateway.kernel.interface import Functions

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MOST = 20_000
"""Bytes of a response, so that many can be tried."""

TEMPLATE = b'{"choices":[{"logprobs":{"content":[%b]},"matched_stop":%b}]}'
ENTRY = b'{"token":"a","logprob":%b,"bytes":[97],"top_logprobs":[%b]}'


class Answers:
    """Whole responses, plain and streamed; some are given to the wrong reader."""

    name = "record-answers"

    def __init__(self) -> None:
        bodies = {one.body: one for one in recorded_answers() if len(one.body) <= MOST}
        self._seeds = sorted(bodies)

    def seeds(self) -> Sequence[bytes]:
        return self._seeds

    def compare(self, native: Functions, given: bytes, random: Random) -> bool:
        if random.random() < 0.1:
            given = mutated(random, given, self._seeds)
        chat, streamed = b'"chat.completion' in given, given.startswith(b"data:")
        if random.random() < 0.02:
            chat, streamed = not chat, random.random() < 0.5
        return _agree(native, CHAT if chat else COMPLETIONS, given, streamed)


class Numbers:
    """Logprobs written in any way."""

    name = "record-numbers"

    def seeds(self) -> Sequence[bytes]:
        return (TEMPLATE,)

    def compare(self, native: Functions, given: bytes, random: Random) -> bool:
        written = number(random)
        entry = ENTRY % (written, written)
        text = given if random.random() < 0.1 else TEMPLATE
        body = text.replace(b"%b", entry, 1).replace(b"%b", written, 1)
        return _agree(native, CHAT, body, streamed=False)


def _agree(native: Functions, path: str, body: bytes, streamed: bool) -> bool:
    using = Kernel("native", native)
    found = assemble(path, body, streamed=streamed, kernel=using)
    if using.fallbacks["record"]:
        return False
    wanted = assemble(path, body, streamed=streamed)
    if found != wanted:
        raise Differs(f"{found} is not {wanted}, {path}, streamed={streamed}, of {body!r}")
    return True
