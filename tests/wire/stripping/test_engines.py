"""What is left of an answer of each recorded engine is what it sends without the injection."""

import json
import re
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.records.vllm_recordings import OTHER_ENGINES, RecordedExchange, load

from gateway.calls.call import Call
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.readers import EventReader
from gateway.plugins.chains import Chains, Failures
from gateway.testing import RecordingCaller
from gateway.wire.injection import INJECTIONS, Injection, Stripper
from gateway.wire.sse import Splitter

RECORDED = load(OTHER_ENGINES)
ALL: frozenset[Injection] = frozenset(INJECTIONS)
IDS: frozenset[Injection] = frozenset(("token_ids", "logprobs"))
LLAMA_CPP = "llamacpp"
LITELLM = "litellm-1.105.0"
TRANSFORMERS = "transformers-5.24.0"
PYTHON = "llama-cpp-python-0.3.36"


def strip(
    answer: bytes,
    injected: frozenset[Injection],
    pieces: list[bytes] | None = None,
    stripper: Stripper | None = None,
) -> bytes:
    stripper = stripper or Stripper(injected)
    if not answer.lstrip(b"\xef\xbb\xbf").startswith((b"data:", b":")):
        return stripper.plain(answer)
    call = Call(RecordingCaller(), method="POST", path="/v1/chat/completions")
    reader = EventReader(Exchange(call, Chains(Failures())), stripper, 1 << 20)
    return b"".join(map(reader.feed, pieces or [answer])) + reader.close()


def body(engine: str, name: str) -> bytes:
    return RECORDED[f"{engine}/{name}"].body


def same(answer: bytes) -> bytes:
    """Without what differs between any two answers: ids and times."""
    answer = re.sub(rb'"id":( ?)"[^"]*"|"created":( ?)[0-9]+', b"", answer)
    answer = re.sub(rb'"(predicted|prompt)_([a-z_]*)":[0-9.]+', b"", answer)
    return re.sub(rb'"(cache_n|cached_tokens|prompt_n)":[0-9]+', b"", answer)


PAIRS: list[tuple[str, str, str, frozenset[Injection]]] = [
    (LLAMA_CPP, "chat_logprobs_top2_stream", "chat_stream", ALL),
    (LLAMA_CPP, "chat_stream_usage", "chat_stream", ALL),
    (LLAMA_CPP, "chat_stream_usage", "chat_stream_usage", IDS),
    (LLAMA_CPP, "chat_logprobs_top2", "chat_unknown_field", ALL),
    (LLAMA_CPP, "comp_logprobs2", "comp_plain", ALL),
    (LITELLM, "chat_ids_plain", "chat_plain", ALL),
    (LITELLM, "comp_logprobs2", "comp_plain", ALL),
    (TRANSFORMERS, "chat_stream_usage", "chat_stream", ALL),
    (PYTHON, "chat_logprobs_top2_stream", "chat_stream", ALL),
    (PYTHON, "chat_logprobs_top2", "chat_ids_plain", ALL),
    (PYTHON, "comp_ids_stream", "comp_stream", ALL),
]


@pytest.mark.parametrize(("engine", "asked", "plain", "injected"), PAIRS)
def test_engine_s_answer_is_stripped_to_its_own_bytes(
    engine: str, asked: str, plain: str, injected: frozenset[Injection]
) -> None:
    assert same(strip(body(engine, asked), injected)) == same(body(engine, plain))


def test_litellm_s_stream_is_stripped_to_its_own_events() -> None:
    """The order of their keys depends on the request, so they are compared as objects."""
    stripped = objects(strip(body(LITELLM, "chat_ids_stream"), IDS))

    assert stripped == objects(body(LITELLM, "chat_stream_usage"))


def objects(stream: bytes) -> list[dict[str, object]]:
    lines = [line[6:] for line in stream.split(b"\n") if line.startswith(b"data: {")]
    return [{**json.loads(line), "id": "", "created": 0} for line in lines]


def test_litellm_s_usage_event_is_dropped_though_it_has_a_choice() -> None:
    stripped = strip(body(LITELLM, "chat_ids_stream"), ALL)

    assert b"usage" not in stripped
    assert stripped.endswith(b'"finish_reason":"length"}]}\n\ndata: [DONE]\n\n')


@pytest.mark.parametrize("exchange", RECORDED.values(), ids=lambda exchange: exchange.name)
def test_no_injected_field_of_any_engine_is_left(exchange: RecordedExchange) -> None:
    """However the bytes come: in one read, event by event, or byte by byte."""
    whole = exchange.body
    ways = [[whole], whole.splitlines(keepends=True), [whole[n : n + 1] for n in range(len(whole))]]

    found = {strip(whole, ALL, pieces) for pieces in ways}

    assert len(found) == 1
    assert not re.search(rb'"(?:prompt_)?token_ids": ?\[|"logprobs": ?\{', found.pop())


class Style(msgspec.Struct, frozen=True):
    """How an engine writes its answers."""

    nulls: bool
    spaced: bool
    number: str
    text: str
    frame: str

    def write(self, value: object) -> bytes:
        separators = (", ", ": ") if self.spaced else (",", ":")
        text = json.dumps(value, separators=separators)
        return text.replace('"NUMBER"', self.number).replace('"TEXT"', self.text).encode()

    def choice(self, said: dict[str, object], finish: str | None, asked: bool) -> dict[str, object]:
        scores = {"content": [{"token": "TEXT", "logprob": "NUMBER", "top_logprobs": []}]}
        found = {
            "index": 0,
            **said,
            "logprobs": scores if asked else None,
            "finish_reason": finish,
            "token_ids": [1] if asked else None,
        }
        return found if self.nulls else {k: v for k, v in found.items() if v is not None}

    def event(self, said: dict[str, object], finish: str | None, asked: bool) -> bytes:
        choices = [self.choice(said, finish, asked)]
        data = self.write({"id": "a", "n": "NUMBER", "choices": choices, "big": 10**30})
        return self.frame.encode().replace(b"DATA", data)


styles = st.builds(
    Style,
    nulls=st.booleans(),
    spaced=st.booleans(),
    number=st.sampled_from(["-0.5", "-Infinity", "NaN", "1e-05", "1.0", "1E400", "01"]),
    text=st.sampled_from(['"x"', r'"\ud83d"', r'"\"token_ids\":[7]"', '"\\n"', '"\x01"', '"\x80"']),
    frame=st.sampled_from(
        [
            "data: DATA\n\n",
            "data:DATA\n\n",
            "data: DATA\r\n\r\n",
            "data: DATA\r\r",
            ": hi\n\nid: 1\ndata: DATA\n\n",
            "data: DATA\0\n\n",
            "data: \ndata: DATA\ndata: \n:\n\n",
        ]
    ),
)


def stream(style: Style, deltas: list[dict[str, str]], *, asked: bool) -> bytes:
    said: list[dict[str, object]] = [{"delta": delta} for delta in deltas]
    events = [style.event(one, None, asked and number > 0) for number, one in enumerate(said)]
    return b"".join([*events, style.event({"delta": {}}, "stop", asked), b"data: [DONE]\n\n"])


@given(styles, st.lists(st.sampled_from(["TEXT", "y", ""]), max_size=4), st.integers(1, 50))
def test_any_stream_is_stripped_to_the_bytes_of_a_direct_call(
    style: Style, texts: list[str], size: int
) -> None:
    deltas = [{"role": "assistant"}, *({"content": t} for t in texts)]
    asked = stream(style, deltas, asked=True)
    pieces = [asked[a:b] for a, b in pairwise([*range(0, len(asked), size), len(asked)])]

    assert strip(asked, ALL, pieces) == stream(style, deltas, asked=False)


@given(
    styles, st.integers(1, 3), st.sampled_from(["", "\ufeff", " \n"]), st.sampled_from(["", "\0"])
)
def test_any_plain_answer_is_stripped_to_the_bytes_of_a_direct_call(
    style: Style, count: int, before: str, after: str
) -> None:
    style = msgspec.structs.replace(style, nulls=True)
    direct, asked = (
        before.encode()
        + style.write(
            {
                "choices": [style.choice({"message": {"content": "TEXT"}}, "stop", asked)] * count,
                "usage": {"completion_tokens": "NUMBER"},
            }
        )
        + after.encode()
        for asked in (False, True)
    )

    assert strip(asked, ALL) == direct


@pytest.mark.parametrize(
    "usage",
    [
        '{"id":"a","usage":{"prompt_tokens":1}}',
        '{"id":"a","choices":null,"usage":{"prompt_tokens":1}}',
        '{"id":"a","choices":[],"usage":{"prompt_tokens":1}}',
        '{"id":"a","choices":[{"index":0,"delta":{}}],"usage":{"prompt_tokens":1}}',
        '{"id":"a","choices":[{"index":0,"delta":{"content":""},"finish_reason":null}],"usage":{}}',
        '{"id":"a","choices":[{"index":0,"text":"","finish_reason":""}],"usage":{}}',
    ],
)
def test_usage_event_of_any_form_is_dropped(usage: str) -> None:
    end = b'data: {"id":"a","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    done = b"data: [DONE]\n\n"

    assert strip(end + f"data: {usage}\n\n".encode() + done, ALL) == end + done


def test_last_words_of_a_usage_event_go_to_the_event_before_it() -> None:
    end = b'data: {"id": "a", "choices": [{"index": 0, "finish_reason": "stop"}]}\n\n'
    usage = b'data: {"id": "a", "choices": [], "usage": {"x": 1}, "timings": {"ms": 1e-05}}\n\n'

    assert strip(end + usage, ALL) == end.replace(b"}]}", b'}], "timings": {"ms": 1e-05}}')


TORN = [
    b'{"choices":[{"index":0,"delta":{},"token_ids":[1,2',
    b'{"choices":[{"index":0,"delta":{},"token_ids":[1,2],"x":}]}',
    b'{"choices":[{"index":0,"logprobs":{"content":[{"logprob":-1}]},"delta"{}}]}',
    b'{"choices":[{"index":0,"logprobs": {"content":[{"logprob":',
    b'{"prompt_token_ids":[1,2],"choices":[}',
    b'{"choices":[{"token_ids":[1]}]}{"choices":[{"token_ids":[1]}]}',
]


@pytest.mark.parametrize("text", TORN)
def test_text_that_is_no_json_loses_what_looks_like_an_injected_field(text: bytes) -> None:
    stripper = Stripper(ALL)
    [event] = Splitter().feed(b"data: %b\n\n" % text)

    for found in (stripper.event(event), Stripper(ALL).plain(text)):
        assert not re.search(rb'"(?:prompt_)?token_ids":\[|"logprobs": ?\{', found)
    assert stripper.torn


@given(st.binary(), st.sampled_from([b'"token_ids":', b'"logprobs" : ']), st.sampled_from(TORN))
def test_torn_text_leaks_no_list_without_an_end(noise: bytes, key: bytes, text: bytes) -> None:
    if not noise.endswith(b"\\"):
        assert b"[1,2" not in Stripper(ALL).plain(text + noise + key + b"[1,2")


def test_text_that_is_no_json_stays_if_it_has_no_injected_field() -> None:
    stripper = Stripper(ALL)

    assert stripper.plain(b"<html>") == b"<html>"
    assert not stripper.torn
