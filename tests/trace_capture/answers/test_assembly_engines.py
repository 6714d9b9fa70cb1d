"""Ids and logprobs in the homes that other engines and proxies than vLLM give them."""

import json
from random import Random
from typing import Any

import msgspec
import pytest
from gateway_plugins.trace_capture.answers.assembled import Assembled
from gateway_plugins.trace_capture.answers.assembly import assemble
from gateway_plugins.trace_capture.answers.rebuild import whole
from hypothesis import given
from hypothesis import strategies as st
from support.records.random_answers import JSON, answers, events, framed, some
from support.records.vllm_recordings import OTHER_ENGINES, load

RECORDED = load(OTHER_ENGINES)
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
SAMPLED = [7, 207, 7, 207, 3, 207, 99, 10, 612, 77, 421, 323]


def recorded(name: str) -> Assembled:
    exchange = RECORDED[name]
    streamed = exchange.body.startswith(b"data:")
    return assemble(exchange.path, exchange.body, streamed=streamed)


@pytest.mark.parametrize("name", ["chat_logprobs_top2", "chat_logprobs_top2_stream"])
def test_assembly_reads_the_ids_in_llama_cpp_s_logprobs(name: str) -> None:
    [part] = recorded(f"llamacpp/{name}").parts
    assert part.token_ids == SAMPLED
    assert (len(part.logprobs), part.logprobs[0]) == (12, -0.00442930031567812)
    assert part.prompt_token_ids == []


def test_assembly_reads_the_chat_shaped_logprobs_of_completions() -> None:
    [part] = recorded("llamacpp/comp_logprobs2").parts
    assert part.token_ids == [84, 395, 74, 395, 74, 395, 20, 229]
    assert part.tokens == ["l", "lo", "b", "lo", "b", "lo", ",", " "]


def test_assembly_reads_the_ids_in_litellm_s_own_fields() -> None:
    [part] = recorded("litellm-1.105.0/chat_ids_plain").parts
    assert (part.token_ids, len(part.prompt_token_ids)) == (SAMPLED, 30)


def test_assembly_reads_litellm_s_stream_with_a_choice_in_its_usage_event() -> None:
    answer = recorded("litellm-1.105.0/chat_ids_stream")
    [part] = answer.parts
    assert (part.token_ids, part.finish_reason) == (SAMPLED, "length")
    assert (answer.prompt_tokens, answer.completion_tokens) == (30, 12)


PLAIN = [name for name, one in RECORDED.items() if one.body.startswith(b"{")]


@pytest.mark.parametrize("name", PLAIN)
def test_assembly_rebuilds_the_plain_response_of_any_engine(name: str) -> None:
    answer = recorded(name)
    assert whole(answer.skeleton, answer.parts) == json.loads(RECORDED[name].body)


def moved(answer: JSON, *, chat: bool, home: str) -> JSON:
    """The answer with its ids in another home."""
    for choice in answer["choices"]:
        ids = choice.pop("token_ids")
        if home == "provider_specific_fields":
            choice["provider_specific_fields"] = {"token_ids": ids, "stop_reason": None}
            continue
        entries = choice["logprobs"]["content"] if chat else _entries(choice["logprobs"])
        pairs = zip(entries, ids, strict=False)
        choice["logprobs"] = {"content": [{"id": id_, **entry} for entry, id_ in pairs]}
    return answer


def _entries(scores: JSON) -> list[JSON]:
    pairs = zip(scores["tokens"], scores["token_logprobs"], strict=True)
    return [{"token": text, "logprob": value, "top_logprobs": []} for text, value in pairs]


@st.composite
def both(draw: st.DrawFn) -> tuple[bytes, bytes, str, bool]:
    """A response as vLLM has it and with its ids in another home, its path, whether it streams."""
    chat, home = draw(st.booleans()), draw(st.sampled_from(["provider_specific_fields", "content"]))
    answer = draw(answers(chat=chat))
    for choice in answer["choices"]:
        scored = len(next(iter(choice["logprobs"].values())))
        choice["token_ids"] = [*choice["token_ids"], *range(scored)][:scored]
    other = moved(json.loads(json.dumps(answer)), chat=chat, home=home)
    path = CHAT if chat else COMPLETIONS
    if home == "provider_specific_fields" or draw(st.booleans()):
        return json.dumps(answer).encode(), json.dumps(other).encode(), path, False
    chance = Random(draw(st.integers(0, 2**32)))
    return json.dumps(answer).encode(), _streamed(chance, answer, other, chat=chat), path, True


def _streamed(chance: Random, answer: JSON, other: JSON, *, chat: bool) -> bytes:
    """The other answer as a stream: each chunk has the entries for its share of the ids."""
    told = events(chance, answer, chat=chat)
    entries = {one["index"]: iter(one["logprobs"]["content"]) for one in other["choices"]}
    for event in told:
        for chunk in event["choices"]:
            count = len(chunk.pop("token_ids", []))
            some_entries = [next(entries[chunk["index"]]) for _ in range(count)]
            chunk["logprobs"] = {"content": some_entries} if some_entries else None
    return framed(chance, [*map(json.dumps, told), "[DONE]"])


@some
@given(both())
def test_assembly_reads_the_same_tokens_from_any_home(
    responses: tuple[bytes, bytes, str, bool],
) -> None:
    usual, other, path, streamed = responses
    expected, found = (
        assemble(path, usual, streamed=False),
        assemble(path, other, streamed=streamed),
    )
    assert found.readable
    for one, like in zip(found.parts, expected.parts, strict=True):
        assert (one.token_ids, one.logprobs) == (like.token_ids, like.logprobs)
        assert (one.tokens or [], one.doubts) == (like.tokens or [], [])


@pytest.mark.parametrize("id_", [None, -1, 2**31, "7", 1.5])
def test_assembly_reads_no_ids_from_logprobs_if_one_is_no_id(id_: object) -> None:
    entries = [{"token": "a", "logprob": -1.0, "id": one} for one in (5, id_)]
    choice = {"index": 0, "logprobs": {"content": entries}, "finish_reason": "stop"}
    [part] = assemble(CHAT, json.dumps({"choices": [choice]}).encode(), streamed=False).parts
    assert (part.token_ids, part.logprobs) == ([], [-1.0, -1.0])


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("streamed", [False, True])
def test_assembly_reads_numbers_that_json_does_not_have_as_null(word: str, streamed: bool) -> None:
    said: Any = {"role": "assistant", "content": "Infinity"}
    entry = {"token": "a", "logprob": "WORD", "bytes": None}
    choice = {"index": 0, "token_ids": [5], "logprobs": {"content": [entry]}}
    choice |= {"delta" if streamed else "message": said, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1}
    body = msgspec.json.encode({"choices": [choice], "usage": usage, "prompt_token_ids": [1]})
    body = body.replace(b'"WORD"', word.encode())
    body = b"data: %b\n\ndata: [DONE]\n\n" % body if streamed else body
    answer = assemble(CHAT, body, streamed=streamed)
    assert (answer.readable, answer.completion_tokens) == (True, 1)
    [part] = answer.parts
    assert (part.token_ids, part.logprobs, part.prompt_token_ids) == ([5], [None], [1])
    rebuilt = whole(answer.skeleton, answer.parts)
    assert rebuilt is not None
    assert rebuilt["choices"][0]["message"]["content"] == "Infinity"


@pytest.mark.parametrize("goes_on", [b"null", b'""', b'"null"'])
def test_assembly_takes_no_sign_that_a_choice_goes_on_for_its_end(goes_on: bytes) -> None:
    event = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":%b}]}\n\n'
    for finish, expected in ((goes_on, None), (b'"stop"', "stop")):
        answer = assemble(CHAT, event % finish + event % goes_on, streamed=True)
        assert [part.finish_reason for part in answer.parts] == [expected]


def split_stream(*halves: bytes) -> bytes:
    written = [
        b'{"choices":[{"index":0,"delta":{"content":"%b"},"token_ids":[%d],"finish_reason":%b}]}'
        % (half, number, b'"stop"' if number == len(halves) else b"null")
        for number, half in enumerate(halves, 1)
    ]
    return b"".join(b"data: %b\n\n" % one for one in [*written, b"[DONE]"])


@pytest.mark.parametrize(
    ("halves", "text", "readable"),
    [
        ([rb"a\ud83d", rb"\ude00b"], "a😀b", True),
        ([b"a\xf0\x9f", b"\x98\x80b"], "a😀b", True),
        ([b"a\xf0", b"\x9f", b"\x98\x80"], "a😀", True),
        ([rb"\ud83d\ude00", rb"\ud83d", rb"\ude00"], "😀😀", True),
        ([rb"a\ud83d", b"b"], "a\ufffdb", False),
        ([rb"\ude00", rb"\ud83d"], "\ufffd\ufffd", False),
        ([b"\xf0", b"b"], "\ufffdb", False),
    ],
)
def test_assembly_joins_a_character_that_two_events_share(
    halves: list[bytes], text: str, readable: bool
) -> None:
    answer = assemble(CHAT, split_stream(*halves), streamed=True)

    rebuilt = whole(answer.skeleton, answer.parts)
    assert rebuilt is not None
    assert rebuilt["choices"][0]["message"]["content"] == text
    assert answer.parts[0].token_ids == list(range(1, len(halves) + 1))
    assert answer.readable is readable
