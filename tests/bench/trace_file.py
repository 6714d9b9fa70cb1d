"""How large a file of traces is, and how fast a session is read out of it.

    python tests/bench/trace_file.py [--traces 1000000] [--rllm]

Each turn of a session adds 40 prompt tokens (a tool's result, a question) and samples 100, about 4
characters of text each; ids and logprobs are random. `--rllm` stores the same calls with
rllm-model-gateway's own store, where that is installed.
"""

import argparse
import asyncio
import gc
import json
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from gateway_plugins.trace_capture.store import queries
from support.records.trace_records import File, Turn, opened, record_of

ADDED, SAMPLED = 40, 100
READ_TURNS = 50


def conversation(session_id: str, turns: int) -> list[Turn]:
    made: list[Turn] = []
    prompt: list[int] = []
    messages: list[dict[str, Any]] = []
    for _ in range(turns):
        prompt = [*prompt, *_ids(ADDED)]
        messages = [*messages, {"role": "user", "content": _text(ADDED)}]
        sampled = _ids(SAMPLED)
        made.append(Turn(prompt, [sampled], messages, session_id))
        prompt = [*prompt, *sampled]
        messages = [*messages, {"role": "assistant", "content": "".join(map(str, sampled))}]
    return made


def _ids(count: int) -> list[int]:
    return [random.randrange(1_000, 150_000) for _ in range(count)]


def _text(tokens: int) -> str:
    words = ("read", "the", "file", "line", "error", "value", "test", "with", "call", "data")
    return " ".join(random.choice(words) + str(random.randrange(100)) for _ in range(tokens))


def size_of(turns: int, sessions: int) -> float:
    """Bytes on disk per sampled token."""
    with tempfile.TemporaryDirectory() as folder:
        with opened(Path(folder)) as file:
            for number in range(sessions):
                for turn in conversation(f"s{number}", turns):
                    file.store([record_of(turn)])
            file.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return (Path(folder) / "traces.db").stat().st_size / (turns * sessions * SAMPLED)


async def rllm_size_of(turns: int, sessions: int) -> float:
    from rllm_model_gateway.store.sqlite_store import SqliteTraceStore

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rllm.db"
        store = SqliteTraceStore(str(path))
        for number in range(sessions):
            for place, turn in enumerate(conversation(f"s{number}", turns)):
                trace = rllm_trace(turn, f"{number}-{place}")
                await store.store_trace(trace["trace_id"], trace["session_id"], trace)
        await store.close()
        with sqlite3.connect(path) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return path.stat().st_size / (turns * sessions * SAMPLED)


def rllm_trace(turn: Turn, trace_id: str) -> dict[str, Any]:
    """What rllm-model-gateway's build_trace_record makes of a plain call."""
    from rllm_model_gateway.data_process import build_trace_record
    from support.records.trace_records import body_of

    request = {"messages": turn.messages, "model": "m", "logprobs": True, "return_token_ids": True}
    record = build_trace_record(turn.session_id, request, json.loads(body_of(turn)), 1.0)
    dumped: dict[str, Any] = record.model_dump()
    return {**dumped, "trace_id": trace_id}


def read_times(traces: int) -> list[float]:
    """Milliseconds to read one session of 50 turns, for several, in a file of `traces`."""
    with tempfile.TemporaryDirectory() as folder, opened(Path(folder)) as file:
        _fill(file, traces)
        gc.freeze()  # as the gateway's server does
        gc.set_threshold(10_000, 20, 20)
        times = []
        for number in random.sample(range(traces // READ_TURNS), 20):
            begun = time.perf_counter()
            wanted = queries.TraceFilter(session_ids=(f"s{number}",))
            assert len(list(queries.select(file.db, wanted))) == READ_TURNS
            times.append((time.perf_counter() - begun) * 1e3)
    return times


def _fill(file: File, traces: int) -> None:
    """Twenty sessions are stored as calls are; the others are copies of these rows."""
    real = 20
    for number in range(real):
        file.store([record_of(turn) for turn in conversation(f"s{number}", READ_TURNS)])
    block = real * READ_TURNS
    for copy in range(1, traces // block):
        file.db.execute(
            "INSERT INTO traces (number, trace_id, session_id, timestamp, complete, model, base,"
            " depth, ends, content) SELECT number + :up, printf('%032x', number + :up),"
            " 's' || (CAST(substr(session_id, 2) AS INTEGER) + :sessions), timestamp, complete,"
            " model, base + :up, depth, ends, content FROM traces WHERE number <= :block",
            {"up": copy * block, "sessions": copy * real, "block": block},
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--traces", type=int, default=1_000_000)
    parser.add_argument("--rllm", action="store_true")
    options = parser.parse_args()
    random.seed(1)
    for turns, sessions in ((1, 500), (10, 50), (50, 10)):
        line = f"{turns:3} turns: {size_of(turns, sessions):8.1f} bytes for each sampled token"
        if options.rllm:
            line += f"; rllm {asyncio.run(rllm_size_of(turns, sessions)):8.1f}"
        sys.stdout.write(line + "\n")
    times = read_times(options.traces)
    sys.stdout.write(
        f"a session of {READ_TURNS} turns out of {options.traces} traces: "
        f"median {statistics.median(times):.1f} ms, longest {max(times):.1f} ms\n"
    )


if __name__ == "__main__":
    main()
