"""`Generate` says what the worker says: recorded responses of real engines, as HTTP has them."""

import random
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec
from gateway_plugins.grpc.edge.answers import BadAnswer, Broken, Unsupported, WorkerError
from gateway_plugins.grpc.services.generate.answer import GenerateAnswer
from gateway_plugins.grpc.services.generate.method import Generate
from gateway_plugins.grpc.services.generate.request import Generation, Wanted
from gateway_plugins.grpc.status import Code
from grpc_plugin.services.test_call import gateway_before
from hypothesis import given
from hypothesis import strategies as st
from support.grpc.generations import data_of, heard, is_stream, recorded
from support.grpc.in_process import MESSAGES, carried, message
from support.records.mutations import mutated
from support.records.vllm_recordings import OTHER_ENGINES, RecordedExchange, load
from support.workers.playing import Playing, naming, raw

from gateway.testing import ScriptedWorker

RECORDED = [
    one
    for one in (*load().values(), *load(OTHER_ENGINES).values())
    if one.method == "POST"
    and one.path in ("/v1/chat/completions", "/v1/completions")
    and one.status == 200
    and not (one.cut_short or "").startswith("client")
]

NO_PROMPT_IDS = "the worker's response has no token ids of the prompt"
NO_LOGPROBS = "the worker's response has text without logprobs"
UNSUPPORTED = {
    # `echo` gives logprobs of the prompt's tokens among those of the completion's.
    "default/comp_echo_logprobs": "the worker's response has logprobs of tokens without ids",
    "default/comp_echo_stream": "the worker's response has logprobs of tokens without ids",
    "llamacpp/chat_ids_plain": NO_PROMPT_IDS,
    "llamacpp/comp_ids_stream": NO_PROMPT_IDS,
    "llama-cpp-python-0.3.36/chat_ids_plain": NO_PROMPT_IDS,
    "llama-cpp-python-0.3.36/comp_ids_stream": NO_PROMPT_IDS,
    "litellm-1.105.0/chat_ids_stream": NO_PROMPT_IDS,
    "transformers-5.24.0/chat_logprobs_top2": NO_LOGPROBS,
    "transformers-5.24.0/chat_logprobs_top2_stream": NO_LOGPROBS,
    "transformers-5.24.0/comp_logprobs2": NO_LOGPROBS,
    "transformers-5.24.0/comp_echo": NO_LOGPROBS,
}
"""What engines do not have, although the request of the recorded exchange asks for it."""

ENGINE_DIED = ("crash/kill9_worker_stream", "smg-1.13.0/killed_stream")


def request_of(exchange: RecordedExchange) -> Any:
    """Ask for the numbers that the recorded request has asked for."""
    asked = msgspec.json.decode(exchange.request_body)
    request = message("GenerateRequest", model="m")
    if exchange.path == "/v1/completions":
        request.prompt = "Hello"
    else:
        request.messages.messages.add(role="user").parts.add(text="Hello")
    ids = bool(asked.get("return_token_ids"))
    request.returned.token_ids = request.returned.prompt_token_ids = ids
    request.logprobs.sampled = asked.get("logprobs") not in (None, False)
    return request


async def test_recorded_responses_say_the_same_as_over_http() -> None:
    playing, seen = Playing(), set[Code]()
    async with ScriptedWorker(playing.script) as worker, gateway_before(worker) as gateway:
        for exchange in RECORDED:
            playing.pieces, playing.breaks_off = [raw(exchange)], bool(exchange.cut_short)
            request = request_of(exchange)
            with naming(exchange):
                status, events = await carried(
                    gateway, Generate(MESSAGES), request, "GenerateEvent"
                )
                compare(exchange, request, status.code, events)
                assert status.message == UNSUPPORTED.get(exchange.name, status.message)
            seen.add(status.code)
    assert seen == {Code.OK, Code.UNAVAILABLE, Code.FAILED_PRECONDITION}


def compare(exchange: RecordedExchange, request: Any, code: Code, events: Sequence[Any]) -> None:
    if exchange.name in UNSUPPORTED:
        assert (code, events) == (Code.FAILED_PRECONDITION, [])
        return
    kinds = [event.WhichOneof("event") for event in events]
    choices, usage = recorded(exchange)
    if exchange.cut_short or exchange.name in ENGINE_DIED or usage is None:
        assert code is Code.UNAVAILABLE
        assert "usage" not in kinds
        return
    assert code is Code.OK
    assert (kinds.index("start"), kinds.count("start")) == (0, 1)
    assert (kinds.index("usage"), kinds.count("usage")) == (len(kinds) - 1, 1)
    found = events[-1].usage
    counts = (found.prompt_tokens, found.completion_tokens, found.total_tokens)
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    assert counts == tuple(usage[name] for name in names)
    for one in choices.values():
        one.ids = one.ids if request.returned.token_ids else []
        one.logprobs = one.logprobs if request.logprobs.sampled else []
        assert len(one.finish) == 1
    assert heard(events) == choices


EVENTS = [data for one in RECORDED if is_stream(one) for data in data_of(one)]
ANYTHING = Wanted(token_ids=True, logprobs=True, top=2)


@given(st.randoms(use_true_random=False))
def test_no_bytes_of_a_worker_break_more_than_their_call(chance: random.Random) -> None:
    answer = GenerateAnswer(MESSAGES, 0.0)
    answer.expect(Generation("", bytes, wanted=chance.choice((Wanted(), ANYTHING))))
    for event in chance.choices(EVENTS, k=20):
        with suppress(BadAnswer, Unsupported, WorkerError):
            answer.event(mutated(chance, event))
    answer.take()
    with suppress(Broken, Unsupported):
        answer.finish()
