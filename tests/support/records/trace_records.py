"""Records and the file they go to, without a gateway: what the writer's thread sees."""

import json
import random
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
from gateway_plugins.trace_capture.answers.assembled import Assembled
from gateway_plugins.trace_capture.answers.assembly import assemble
from gateway_plugins.trace_capture.answers.rebuild import choices_of
from gateway_plugins.trace_capture.recording.head import Head
from gateway_plugins.trace_capture.recording.hooks import Hooks
from gateway_plugins.trace_capture.recording.record import Record
from gateway_plugins.trace_capture.store.schema import MIGRATIONS
from gateway_plugins.trace_capture.store.sink import TraceSink

from gateway import TraceChoice
from gateway.storage import Entry
from gateway.storage.sqlite.connection import Connection
from gateway.storage.sqlite.file import open_for_writing, prepare_file
from gateway.storage.sqlite.writer import Tally, commit


class Turn(msgspec.Struct):
    """A call that has been made: its prompt, and what was sampled for each choice."""

    prompt: list[int]
    completions: list[list[int]]
    messages: list[dict[str, Any]] = []
    session_id: str | None = "s"
    fields: dict[str, Any] = {}
    retried: bool = False


def body_of(turn: Turn) -> bytes:
    """A plain chat answer with ids and logprobs, as vLLM sends it."""
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": "".join(map(str, ids))},
            "logprobs": {"content": [entry_of(one) for one in ids]},
            "finish_reason": "stop",
            "token_ids": ids,
        }
        for index, ids in enumerate(turn.completions)
    ]
    count = sum(map(len, turn.completions))
    usage = {"prompt_tokens": len(turn.prompt), "completion_tokens": count}
    answer = {"id": "chatcmpl-1", "model": "m", "choices": choices, "usage": usage}
    return json.dumps({**answer, "prompt_token_ids": turn.prompt}).encode()


def entry_of(token: int) -> dict[str, Any]:
    text = str(token)
    return {"token": text, "logprob": -0.5, "bytes": list(text.encode()), "top_logprobs": []}


def record_of(turn: Turn) -> Record:
    request = {"messages": turn.messages, "model": "m", **turn.fields}
    return Record(
        trace_id=f"{1000:012x}{random.getrandbits(80):020x}",
        session_id=turn.session_id,
        timestamp=1.0,
        model="m",
        retried=turn.retried,
        request=json.dumps(request).encode(),
        answer=assemble("/v1/chat/completions", body_of(turn), streamed=False),
        head=Head(call_id="c", path="/v1/chat/completions", times=[0, 1, 2, 3, None, None]),
    )


def choices_in(answer: Assembled) -> list[TraceChoice]:
    return choices_of(answer.skeleton, answer.parts)


class Item(msgspec.Struct):
    """In place of a Capture: the record is there already."""

    record: Record


def sink_of_records() -> TraceSink:
    """A sink as a gateway has one, that takes Items."""
    return TraceSink(Hooks(1), _record_in)


def _record_in(item: Any) -> Record:
    record: Record = item.record
    return record


class File:
    """A database, and a sink as a gateway has one."""

    def __init__(self, db: Connection) -> None:
        self.db = db
        self.restart()

    def restart(self) -> None:
        """What was in memory is gone."""
        self.sink = sink_of_records()

    def store(self, records: Sequence[Record]) -> Tally:
        """In one group."""
        tally = Tally()
        commit(self.db, [Entry(self.sink, Item(one), 1) for one in records], tally)
        return tally


@contextmanager
def opened(folder: Path) -> Iterator[File]:
    path = folder / "traces.db"
    prepare_file(path)
    with closing(open_for_writing(path, "process", [MIGRATIONS])) as db:
        yield File(db)
