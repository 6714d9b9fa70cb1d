"""Trains the dictionary of small traces, on what real engines were asked and have answered.

    python tests/bench/dictionary.py FILE

A trained dictionary is never changed: traces can only be read with the one that they were written
with. Another one would need a name, and a form in codec.py, of its own.
"""

import random
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import zstandard
from gateway_plugins.trace_capture.answers.assembled import Assembled
from gateway_plugins.trace_capture.answers.assembly import assemble
from gateway_plugins.trace_capture.codec import SMALL, Codec
from gateway_plugins.trace_capture.recording.asked import sampling_params
from gateway_plugins.trace_capture.recording.head import AttemptRecord, Head
from gateway_plugins.trace_capture.recording.record import Record
from gateway_plugins.trace_capture.store.row_encoder import encode_row
from support.records.vllm_recordings import OTHER_ENGINES, RecordedExchange, load

SIZE = 2_048
"""Bytes: twice as many save 1% of a trace more, and half as many 5% less."""

TIMES_EACH = 6
"""How often each exchange is taken, with other times, ids and workers."""

INJECTED = {"return_token_ids": True, "logprobs": True, "stream_options": {"include_usage": True}}


class Uncompressed(Codec):
    def compress(self, data: bytes) -> bytes:
        return data


def rows(chance: random.Random) -> Iterator[bytes]:
    for exchange in [*load().values(), *load(OTHER_ENGINES).values()] * TIMES_EACH:
        if exchange.status == 200 and exchange.method == "POST":
            yield encode_row(record_of(exchange, chance), None, Uncompressed()).content


def record_of(exchange: RecordedExchange, chance: random.Random) -> Record:
    kinds = [value for name, value in exchange.headers if name.lower() == "content-type"]
    streamed = any("event-stream" in kind for kind in kinds)
    answer = assemble(exchange.path, exchange.body, streamed=streamed)
    return Record(
        trace_id="",
        session_id=None,
        timestamp=0.0,
        model="",
        retried=False,
        request=exchange.request_body,
        answer=answer,
        head=head_of(exchange, answer, streamed, chance),
    )


def head_of(
    exchange: RecordedExchange, answer: Assembled, streamed: bool, chance: random.Random
) -> Head:
    def microseconds() -> int:
        return chance.randrange(20, 5_000_000)

    worker = f"http://10.{chance.randrange(256)}.{chance.randrange(256)}.{chance.randrange(256)}"
    attempt = AttemptRecord(
        f"{worker}:8000", microseconds(), None, microseconds(), microseconds(), 200, None
    )
    injected = {name: value for name, value in INJECTED.items() if chance.random() < 0.6}
    gaps = [microseconds(), microseconds()] if streamed else [None, None]
    return Head(
        call_id=f"{chance.getrandbits(128):032x}",
        path=exchange.path,
        dialect="chat" if "chat" in exchange.path else "completions",
        streamed=streamed,
        response_id=answer.response_id,
        worker=attempt.worker,
        principal=chance.choice([None, "key-1", "trainer"]),
        attempts=[attempt],
        injected=injected,
        sampling_params=sampling_params(exchange.request_body, injected, {}),
        usage=answer.usage,
        times=[microseconds(), None, microseconds(), microseconds(), *gaps],
        status=200,
        bytes_sent=microseconds(),
        delivered=True,
        choice_reasons=[[] for _ in answer.parts],
        result="success",
        tokens=[answer.prompt_tokens or 0, answer.completion_tokens or 0],
    )


def main() -> None:
    small: list[bytes | bytearray | memoryview] = [
        row for row in rows(random.Random(1)) if len(row) < SMALL
    ]
    dictionary = zstandard.train_dictionary(SIZE, small)
    Path(sys.argv[1]).write_bytes(dictionary.as_bytes())
    sys.stdout.write(f"{len(small)} traces, {sum(map(len, small)):,} bytes\n")


if __name__ == "__main__":
    main()
