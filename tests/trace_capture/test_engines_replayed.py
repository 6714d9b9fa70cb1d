"""What other engines and proxies sent, once more through the gateway, with everything injected.

The caller gets the bytes that a direct call gave; trace and bill say what a table says.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from support.callers.raw_client import CutShort, RawAnswer, RawClient
from support.gateways.capturing import CAPTURE
from support.gateways.event_loop import Stage
from support.records.usage_rows import Row, rows_after
from support.records.vllm_recordings import OTHER_ENGINES, RecordedExchange, load
from support.workers.playing import Playing, compare, naming, pairs, raw
from wire.stripping.test_engines import ALL, PAIRS, same

from gateway import Reason, Trace
from gateway.config import Config, StorageSettings, Worker
from gateway.testing import NO_PROBES, Live, ScriptedWorker, entry, live

pytestmark = pytest.mark.usefixtures("kernel_of_module")

RECORDED = load(OTHER_ENGINES)
ASKED = [
    one
    for one in RECORDED.values()
    if one.method == "POST"
    and one.path.startswith("/v1/")
    and not one.path.endswith("/embeddings")  # leaves no trace
    # The gateway itself rejects what is not JSON; what a caller leaves is tested elsewhere.
    if not one.name.endswith("bad_json") and not (one.cut_short or "").startswith("client")
]
ENGINES = sorted({one.name.partition("/")[0] for one in ASKED})
DONE = b"data: [DONE]\n\n"


class Right(msgspec.Struct, frozen=True):
    """Reasons of the trace, and tokens of the bill; `prompt` is None if the gateway counted."""

    reasons: Sequence[Reason]
    prompt: int | None
    completion: int


NO_IDS: Sequence[Reason] = ("prompt_ids_missing", "token_ids_missing")
NO_TOKENS: Sequence[Reason] = (*NO_IDS, "logprobs_missing")
ERROR = Right(["error_answer"], 0, 0)

RIGHT = {
    "llamacpp/chat_stream": Right([*NO_TOKENS, "usage_missing"], None, 12),
    "llamacpp/chat_stream_usage": Right(NO_TOKENS, 30, 12),
    "llamacpp/chat_ids_plain": Right(["prompt_ids_missing"], 30, 12),
    "llamacpp/chat_logprobs_top2": Right(["prompt_ids_missing"], 30, 12),
    "llamacpp/chat_logprobs_top2_stream": Right(["prompt_ids_missing", "usage_missing"], None, 12),
    "llamacpp/chat_n2": Right(NO_TOKENS, 30, 12),
    "llamacpp/chat_stop_stream": Right([*NO_TOKENS, "usage_missing"], None, 9),
    "llamacpp/chat_one_token_stream": Right([*NO_TOKENS, "usage_missing"], None, 1),
    "llamacpp/chat_tools_required": Right(NO_TOKENS, 148, 79),
    "llamacpp/chat_unknown_field": Right(NO_TOKENS, 30, 12),
    "llamacpp/chat_unknown_model": Right(NO_TOKENS, 30, 12),
    "llamacpp/chat_request_id": Right(NO_TOKENS, 30, 12),
    "llamacpp/comp_plain": Right(NO_TOKENS, 7, 8),
    "llamacpp/comp_ids_stream": Right(NO_TOKENS, 7, 8),
    "llamacpp/comp_logprobs2": Right(["prompt_ids_missing"], 7, 8),
    "llamacpp/comp_echo": Right(["prompt_ids_missing"], 7, 8),
    "llamacpp/responses_plain": Right(["token_ids_missing"], 20, 12),
    "llamacpp/responses_stream": Right(["token_ids_missing"], 20, 12),
    "llamacpp/messages_plain": Right(["token_ids_missing"], 17, 12),
    "litellm-1.105.0/chat_plain": Right(NO_TOKENS, 30, 12),
    "litellm-1.105.0/chat_stream_usage": Right(NO_TOKENS, 30, 12),
    "litellm-1.105.0/chat_ids_plain": Right([], 30, 12),
    "litellm-1.105.0/chat_ids_stream": Right(["prompt_ids_missing"], 30, 12),
    "litellm-1.105.0/chat_logprobs_top2_stream": Right([*NO_IDS, "usage_missing"], None, 12),
    "litellm-1.105.0/chat_one_token_stream": Right([*NO_TOKENS, "usage_missing"], None, 1),
    "litellm-1.105.0/chat_tools_required": Right(NO_TOKENS, 148, 37),
    "litellm-1.105.0/chat_tools_required_stream": Right([*NO_TOKENS, "usage_missing"], None, 12),
    "litellm-1.105.0/chat_request_id": Right(NO_TOKENS, 30, 12),
    "litellm-1.105.0/comp_plain": Right(NO_TOKENS, 7, 8),
    "litellm-1.105.0/comp_stream": Right(NO_TOKENS, None, 8),  # its zeros are not believed
    "litellm-1.105.0/comp_logprobs2": Right(NO_IDS, 7, 8),
    "litellm-1.105.0/responses_plain": Right(["token_ids_missing"], 20, 16),
    "litellm-1.105.0/responses_stream": Right(["token_ids_missing"], 20, 16),
    "litellm-1.105.0/messages_stream": Right(["token_ids_missing"], 17, 12),
    "transformers-5.24.0/chat_stream": Right(NO_TOKENS, 30, 12),
    "transformers-5.24.0/chat_stream_usage": Right(NO_TOKENS, 30, 12),
    "transformers-5.24.0/chat_logprobs_top2": Right(NO_TOKENS, 30, 12),
    "transformers-5.24.0/chat_logprobs_top2_stream": Right(NO_TOKENS, 30, 12),
    "transformers-5.24.0/chat_n2": Right([*NO_TOKENS, "unfinished"], 30, 12),
    "transformers-5.24.0/chat_stop_stream": Right(NO_TOKENS, 30, 10),
    "transformers-5.24.0/chat_one_token_stream": Right(NO_TOKENS, 30, 1),
    "transformers-5.24.0/chat_tools_required": Right(NO_TOKENS, 148, 6),
    "transformers-5.24.0/chat_request_id": Right(NO_TOKENS, 30, 12),
    "transformers-5.24.0/comp_plain": Right(NO_TOKENS, 7, 8),
    "transformers-5.24.0/comp_logprobs2": Right(NO_TOKENS, 7, 8),
    "transformers-5.24.0/comp_echo": Right(NO_TOKENS, 7, 8),
    "transformers-5.24.0/responses_plain": Right(["token_ids_missing"], 20, 12),
    "transformers-5.24.0/responses_stream": Right(["token_ids_missing"], 20, 12),
    "transformers-5.24.0/continuous_batching/chat_plain": Right(NO_TOKENS, 30, 12),
    "transformers-5.24.0/continuous_batching/chat_n2": Right([*NO_TOKENS, "unfinished"], 30, 12),
    "transformers-5.24.0/continuous_batching/chat_stop_stream": Right(NO_TOKENS, 30, 40),
    "llama-cpp-python-0.3.36/chat_stream": Right([*NO_TOKENS, "usage_missing"], None, 12),
    "llama-cpp-python-0.3.36/chat_stream_usage": Right([*NO_TOKENS, "usage_missing"], None, 12),
    "llama-cpp-python-0.3.36/chat_ids_plain": Right(NO_TOKENS, 30, 12),
    "llama-cpp-python-0.3.36/chat_logprobs_top2": Right(NO_IDS, 30, 12),
    "llama-cpp-python-0.3.36/chat_logprobs_top2_stream": Right(
        [*NO_IDS, "usage_missing"], None, 12
    ),
    "llama-cpp-python-0.3.36/chat_n2": Right([*NO_TOKENS, "unfinished"], 30, 12),
    "llama-cpp-python-0.3.36/chat_stop_stream": Right([*NO_TOKENS, "usage_missing"], None, 9),
    "llama-cpp-python-0.3.36/chat_one_token_stream": Right([*NO_TOKENS, "usage_missing"], None, 1),
    "llama-cpp-python-0.3.36/chat_tools_required": Right(NO_TOKENS, 148, 5),
    "llama-cpp-python-0.3.36/chat_unknown_field": Right(NO_TOKENS, 30, 12),
    "llama-cpp-python-0.3.36/chat_unknown_model": Right(NO_TOKENS, 30, 12),
    "llama-cpp-python-0.3.36/comp_stream": Right([*NO_TOKENS, "usage_missing"], None, 7),
    "llama-cpp-python-0.3.36/comp_ids_stream": Right([*NO_IDS, "usage_missing"], None, 8),
    "llama-cpp-python-0.3.36/comp_logprobs2": Right(NO_IDS, 7, 8),
    "llama-cpp-python-0.3.36/interrupted_stream": Right(
        ["worker_broke_off", "unfinished"], None, 22
    ),
    "vllm-router-0.1.17/chat_ids_stream": Right([], 30, 12),
    "vllm-router-0.1.17/comp_ids_stream": Right([], 7, 8),
    "vllm-router-0.1.17/messages_stream": Right(["token_ids_missing"], 17, 12),
    "vllm-router-0.1.17/killed_stream": Right(["worker_broke_off", "unfinished"], None, 86),
    "smg-1.13.0/chat_ids_stream": Right([], 30, 12),
    "smg-1.13.0/comp_ids_stream": Right([], 7, 8),
    "smg-1.13.0/messages_stream": Right(["token_ids_missing"], 17, 12),
    "smg-1.13.0/killed_stream": Right(["error_event", "unfinished"], None, 86),
}
"""Of each response that is no error; all others are ERROR."""


class Theatre(Stage):
    """One worker that plays what it is told, and before it a gateway that captures and counts."""

    def __init__(self, folder: Path) -> None:
        self.playing = Playing()
        self._path = folder / "gateway.db"
        self._rows = 0

    def open(self) -> None:
        worker = self.enter(ScriptedWorker(self.playing.script))
        config = Config(
            probes=NO_PROBES,
            workers=(Worker(url=worker.url),),
            plugins=tuple(entry(name) for name in ("sessions", CAPTURE, "usage")),
            storage=StorageSettings(path=str(self._path)),
        )
        self.live: Live = self.enter(live(config))

    def play(
        self, asked: RecordedExchange, answer: RecordedExchange
    ) -> tuple[RawAnswer, Trace, Row]:
        """Send a recorded request, have the worker say `answer`; return what came of it."""
        self.playing.pieces, self.playing.breaks_off = [raw(answer)], bool(answer.cut_short)
        said, trace = self.run(self._play(asked, f"{asked.name}-{answer.name}".replace("/", ".")))
        with closing(sqlite3.connect(self._path)) as db:
            [(self._rows, row)] = rows_after(db, self._rows).items()
        return said, trace, row

    async def _play(self, asked: RecordedExchange, session: str) -> tuple[RawAnswer, Trace]:
        async with RawClient(*self.live.server.address) as caller:
            path, headers = f"/sessions/{session}{asked.path}", pairs(asked.request_headers)
            try:
                said = await caller.ask("POST", path, headers, asked.request_body)
            except CutShort as short:
                said = short.answer
        await self.live.gateway.storage.flush()
        listed = await self.live.client.get(f"/sessions/{session}/traces")
        [trace] = msgspec.json.decode(listed.content, type=list[Trace])
        return said, trace


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def theatre(
    engine: str, kernel_of_module: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Theatre]:
    """A gateway for each engine: what is learnt of one's refusals is not of another."""
    with Theatre(tmp_path_factory.mktemp(engine)) as theatre:
        theatre.open()
        yield theatre


def test_engine_s_responses_reach_the_caller_and_are_judged_right(
    theatre: Theatre, engine: str
) -> None:
    for exchange in ASKED:
        if exchange.name.startswith(f"{engine}/"):
            with naming(exchange):
                said, trace, row = theatre.play(exchange, exchange)
                compare(said, _as_sent(exchange))
                _check(trace, row, RIGHT.get(exchange.name, ERROR))


def _as_sent(exchange: RecordedExchange) -> RecordedExchange:
    """A stream that broke off is never ended by `[DONE]`, even if its worker sent that before."""
    body = exchange.body.removesuffix(DONE) if exchange.cut_short else exchange.body
    return msgspec.structs.replace(exchange, body=body)


def _check(trace: Trace, row: Row, right: Right) -> None:
    assert (trace.verdict, trace.reasons) == (
        "INCOMPLETE" if right.reasons else "COMPLETE",
        list(right.reasons),
    )
    assert (row.completion_tokens, bool(row.counted)) == (right.completion, right.prompt is None)
    if right.prompt is not None:
        assert row.prompt_tokens == right.prompt
        counts = {"prompt": right.prompt, "completion": right.completion}
        assert trace.token_counts == counts  # the bill and the trace agree


def test_table_has_a_row_for_each_response_that_is_no_error() -> None:
    assert RIGHT.keys() == {one.name for one in ASKED if one.status == 200}


TOLD: dict[str, tuple[Sequence[Reason], int]] = {
    "llamacpp/chat_logprobs_top2_stream": (["prompt_ids_missing", "usage_missing"], 12),
    "llamacpp/chat_stream_usage": (NO_TOKENS, 0),
    "llamacpp/chat_logprobs_top2": (["prompt_ids_missing"], 12),
    "llamacpp/comp_logprobs2": (["prompt_ids_missing"], 8),
    "litellm-1.105.0/chat_ids_plain": ([], 12),
    "litellm-1.105.0/comp_logprobs2": (NO_IDS, 0),
    "transformers-5.24.0/chat_stream_usage": (NO_TOKENS, 0),
    "llama-cpp-python-0.3.36/chat_logprobs_top2_stream": (
        [*NO_IDS, "usage_missing"],
        0,
    ),
    "llama-cpp-python-0.3.36/comp_ids_stream": (
        [*NO_IDS, "usage_missing"],
        0,
    ),
}
"""What a trace has if the engine answers to the injected fields: its reasons, and sampled ids."""


def test_caller_that_asks_for_nothing_gets_the_bytes_of_a_direct_call(
    theatre: Theatre, engine: str
) -> None:
    for name, told, plain, injected in PAIRS:
        if name == engine and injected == ALL:
            asked, answer = RECORDED[f"{name}/{plain}"], RECORDED[f"{name}/{told}"]
            if b"return_token_ids" in asked.request_body:
                continue  # this engine says the same as if it was asked for nothing
            with naming(answer):
                said, trace, _ = theatre.play(asked, answer)
                assert same(said.body) == same(asked.body)
                reasons, ids = TOLD[answer.name]
                assert (trace.reasons, len(trace.completion_token_ids)) == (list(reasons), ids)
