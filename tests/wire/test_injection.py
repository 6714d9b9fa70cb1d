import os
import re
from collections.abc import Iterable
from itertools import pairwise

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.records.vllm_recordings import RecordedExchange, load

from gateway.errors import InvalidJSON
from gateway.kernel import active
from gateway.wire.apis.openai import CHAT, COMPLETIONS
from gateway.wire.apis.registry import dialect_of
from gateway.wire.dialect import Dialect
from gateway.wire.injection import Injection, Stripper, inject
from gateway.wire.rewriting import rewrite, set_keys
from gateway.wire.sse import Event, Splitter, encode

RECORDED = load()
ALL: frozenset[Injection] = frozenset(("token_ids", "logprobs", "usage"))
ANSWERS = [exchange for exchange in RECORDED.values() if dialect_of(exchange.path)]
STREAMS = [exchange for exchange in ANSWERS if exchange.body.startswith(b"data:")]
PLAIN = [exchange for exchange in ANSWERS if not exchange.body.startswith(b"data:")]


def strip(stripper: Stripper, stream: bytes, at: Iterable[int] = ()) -> bytes:
    splitter = Splitter()
    places = [0, *sorted(min(place, len(stream)) for place in at), len(stream)]
    chunks = [stream[start:end] for start, end in pairwise(places)]
    events = [event for chunk in chunks for event in splitter.feed(chunk)] + splitter.close()
    return b"".join(stripper.event(event) for event in events) + stripper.close()


def strip_any(stripper: Stripper, answer: bytes) -> bytes:
    return strip(stripper, answer) if answer.startswith(b"data:") else stripper.plain(answer)


def without_ids(answer: bytes) -> bytes:
    """Without what differs between any two answers: the id and the time."""
    return re.sub(rb'"id":"(chat)?cmpl-[0-9a-f]+"|"created":[0-9]+', b"", answer)


def request(exchange: RecordedExchange) -> dict[str, object]:
    return msgspec.json.decode(exchange.request_body, type=dict[str, object])


PAIRS: list[tuple[str, str, set[Injection]]] = [
    ("chat_stream_token_ids", "chat_stream", {"token_ids"}),
    ("chat_stream_usage", "chat_stream", {"usage"}),
    ("chat_stream_token_ids_logprobs_usage", "chat_stream", {"token_ids", "logprobs", "usage"}),
    ("chat_stream_token_ids_logprobs_usage", "chat_stream_usage", {"token_ids", "logprobs"}),
    ("chat_stream_token_ids_logprobs_usage", "chat_stream_token_ids", {"logprobs", "usage"}),
    ("comp_token_in_stream", "comp_stream", {"token_ids", "logprobs", "usage"}),
    ("comp_stream_token_ids_logprobs_usage", "comp_stream_token_ids", {"logprobs", "usage"}),
    ("chat_token_ids", "chat_temp0_seed", {"token_ids"}),
    ("chat_token_ids_logprobs", "chat_temp0_seed", {"token_ids", "logprobs"}),
    ("chat_token_ids_logprobs", "chat_token_ids", {"logprobs"}),
    ("chat_n2_token_ids_logprobs", "chat_n2", {"token_ids", "logprobs"}),
    ("comp_token_in", "comp_token_ids", {"logprobs"}),
    ("comp_token_in", "comp_logprobs0", {"token_ids"}),
]


@pytest.mark.parametrize(("asked", "plain", "wanted"), PAIRS)
def test_strip_leaves_what_vllm_sends_without_injection(
    asked: str, plain: str, wanted: set[Injection]
) -> None:
    more, less = RECORDED[f"default/{asked}"], RECORDED[f"default/{plain}"]
    dialect = dialect_of(less.path)
    assert dialect is not None

    found, stripper = inject(dialect, request(less), wanted)

    assert stripper is not None
    assert found.changes.items() <= request(more).items()
    assert without_ids(strip_any(stripper, more.body)) == without_ids(less.body)


@pytest.mark.parametrize("name", ["auto_forced", "named", "required"])
def test_strip_drops_tool_call_events_that_only_had_token_ids(name: str) -> None:
    stream = RECORDED[f"default/chat_tools_{name}_stream"].body

    events = _events(strip(Stripper(ALL), stream))

    role, *calls, finish, done = events
    assert b'"prompt_token_ids":null' in role
    assert len(calls) > 1
    assert all(b'"tool_calls":' in call and b'"token_ids":null' in call for call in calls)
    assert b'"delta":{},"logprobs":null,"finish_reason":' in finish
    assert finish.endswith(b'"token_ids":null}],"system_fingerprint":"vllm-0.32.0-7b9365c5"}')
    assert done == b"[DONE]"


@pytest.mark.parametrize(
    ("dialect", "name", "choices"),
    [
        (CHAT, "chat_stream_n2_token_ids_usage", [0, 1]),
        (COMPLETIONS, "comp_token_in_batch_n2_stream", [0, 2, 3, 1]),
    ],
)
def test_strip_keeps_the_fingerprint_on_the_last_event_of_each_choice(
    dialect: Dialect, name: str, choices: list[int]
) -> None:
    events = _events(strip(Stripper(ALL), RECORDED[f"default/{name}"].body))

    finished = events[-1 - len(choices) : -1]
    assert [dialect.read_event(event).choices[0].index for event in finished] == choices
    for event in finished:
        assert b'"finish_reason":"length"' in event
        assert event.endswith(b'"system_fingerprint":"vllm-0.32.0-7b9365c5"}')
    assert not any(b'"usage"' in event for event in events)


def test_strip_holds_back_only_the_last_event_of_a_choice() -> None:
    stripper = Stripper({"usage"})
    end, other, late = (
        Event(encode(data), data)
        for data in (
            b'{"choices":[{"index":0,"finish_reason":"stop"}]}',
            b'{"choices":[{"index":1,"finish_reason":null}]}',
            b'{"choices":[{"index":0,"finish_reason":null}]}',
        )
    )

    assert stripper.event(end) == b""
    assert stripper.event(other) == other.raw
    assert stripper.event(late) == end.raw + late.raw
    assert stripper.close() == b""


@pytest.mark.parametrize(
    "after",
    [
        b"data: [DONE]\n\n",
        b'data: {"error":{"message":"died"}}\n\n',
        b'data: {"choices":[],"prompt_filter_results":[]}\n\n',
        b"data: not json\n\n",
        b"",
    ],
)
def test_strip_forwards_the_end_unchanged_without_a_usage_event(after: bytes) -> None:
    stream = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n' + after

    assert strip(Stripper(ALL), stream) == stream


def test_strip_holds_no_event_back_that_finishes_a_choice_with_its_own_usage() -> None:
    data = (
        b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":1}}'
    )
    event = Event(encode(data), data)

    assert Stripper(ALL).event(event) == event.raw


@pytest.mark.parametrize("said", ['""', '"null"', "null"])
def test_strip_holds_nothing_back_while_no_choice_is_finished(said: str) -> None:
    data = b'{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":%b}]}' % said.encode()
    event = Event(encode(data), data)

    assert Stripper({"usage"}).event(event) == event.raw


def test_strip_adds_no_fingerprint_if_the_engine_sends_none() -> None:
    end = b'data: {"choices":[{"index":0,"finish_reason":"stop","token_ids":[2]}]}\n\n'
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":1}}\n\n'

    assert strip(Stripper(ALL), end + usage) == end.replace(b"[2]", b"null")


def test_strip_keeps_the_error_of_an_engine_that_died_mid_stream() -> None:
    stream = RECORDED["crash/kill9_worker_stream"].body

    *_, last, error, done = _events(strip(Stripper(ALL), stream))

    assert last.endswith(b'"finish_reason":null,"token_ids":null}]}')
    assert error in stream
    assert done == b"[DONE]"


def test_strip_keeps_continuous_usage_requested_by_the_caller() -> None:
    stream = RECORDED["default/chat_stream_continuous_usage"].body
    options = {"include_usage": True, "continuous_usage_stats": True}
    body: dict[str, object] = {"stream": True, "stream_options": options}

    _, stripper = inject(CHAT, body, ALL)

    assert stripper is not None
    assert strip(stripper, stream) == stream


def test_strip_keeps_the_sse_frame_of_an_event() -> None:
    stream = (
        b": hi\r\nid: 4\r\n"
        b'data:{"choices":[{"text":"a","token_ids":[1],"finish_reason":null}]}\r\n\r\n'
    )

    assert strip(Stripper(ALL), stream) == stream.replace(b"[1]", b"null")


def test_strip_keeps_the_bytes_of_other_values() -> None:
    body = rb'{"x":1.50,"choices":[{"token_ids":[1],"a" : "\u00e9\/","b":[ 1 ]}],"c":1e999}'

    assert Stripper(ALL).plain(body) == (
        rb'{"x":1.50,"choices":[{"token_ids":null,"a" : "\u00e9\/","b":[ 1 ]}],"c":1e999}'
    )


@pytest.mark.parametrize("exchange", STREAMS, ids=lambda exchange: exchange.name)
def test_strip_leaves_a_stream_unchanged_without_injection(exchange: RecordedExchange) -> None:
    assert strip(Stripper(()), exchange.body) == exchange.body


def test_strip_leaves_a_plain_response_unchanged_without_injection() -> None:
    for exchange in PLAIN:
        assert Stripper(()).plain(exchange.body) is exchange.body


@pytest.mark.parametrize("exchange", STREAMS, ids=lambda exchange: exchange.name)
def test_strip_removes_injected_fields_from_each_recorded_stream(
    exchange: RecordedExchange,
) -> None:
    stripped = strip(Stripper(ALL), exchange.body)

    assert not re.search(rb'"(prompt_)?token_ids":\[|"logprobs":\{', stripped)
    assert strip(Stripper(ALL), stripped) == stripped


injections = st.sets(st.sampled_from(sorted(ALL)))


@given(
    st.sampled_from([exchange for exchange in STREAMS if len(exchange.body) < 5000]),
    st.lists(st.integers(0, 5000), max_size=20),
    injections,
)
def test_strip_does_not_depend_on_how_the_stream_is_split(
    exchange: RecordedExchange, at: list[int], injected: set[Injection]
) -> None:
    assert strip(Stripper(injected), exchange.body, at) == strip(Stripper(injected), exchange.body)


@given(st.binary(), injections)
def test_strip_forwards_bytes_that_are_no_response(data: bytes, injected: set[Injection]) -> None:
    assert Stripper(injected).plain(data) == data
    assert strip(Stripper(injected), encode(data)) == encode(data)


NAMES = ["choices", "index", "delta", "logprobs", "token_ids", "prompt_token_ids", "finish_reason"]
names = st.sampled_from([*NAMES, "usage", "system_fingerprint"])
values = st.recursive(
    st.none() | st.integers() | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
)
answers = st.fixed_dictionaries({"choices": st.lists(st.dictionaries(names, values), max_size=2)})


@given(st.lists(values | answers, max_size=5), injections)
def test_strip_never_fails_on_any_json(sent: list[object], injected: set[Injection]) -> None:
    stream = b"".join(encode(msgspec.json.encode(value)) for value in sent)

    stripped = strip(Stripper(injected), stream)

    assert len(_events(stripped)) <= len(sent)
    for value in sent:
        msgspec.json.decode(Stripper(injected).plain(msgspec.json.encode(value)))


def _events(stream: bytes) -> list[bytes]:
    splitter = Splitter()
    events = splitter.feed(stream) + splitter.close()
    return [event.data for event in events if event.data is not None]


IDS = {"return_token_ids": True}


@pytest.mark.parametrize(
    ("dialect", "body", "changes"),
    [
        (CHAT, {}, {**IDS, "logprobs": True}),
        (COMPLETIONS, {}, {**IDS, "logprobs": 0}),
        (CHAT, {"return_token_ids": None, "logprobs": False}, {**IDS, "logprobs": True}),
        (CHAT, {"return_token_ids": 0, "logprobs": "false"}, {**IDS, "logprobs": True}),
        (CHAT, {"return_token_ids": True, "logprobs": True}, {}),
        (CHAT, {"return_token_ids": 1, "logprobs": "yes"}, {}),
        (COMPLETIONS, {"return_token_ids": False, "logprobs": None}, {**IDS, "logprobs": 0}),
        (COMPLETIONS, {"logprobs": 3}, IDS),
        (COMPLETIONS, {"logprobs": 0}, IDS),
        (COMPLETIONS, {"logprobs": False}, IDS),
        # Refused by the worker as they stand, and to stay so.
        (CHAT, {"top_logprobs": 2}, IDS),
        (CHAT, {"logprob_token_ids": [1]}, IDS),
        (COMPLETIONS, {"logprob_token_ids": [1]}, IDS),
        (CHAT, {"top_logprobs": 0}, {**IDS, "logprobs": True}),
        # With echo the answer's text would differ.
        (COMPLETIONS, {"echo": True}, {}),
        (COMPLETIONS, {"echo": False}, {**IDS, "logprobs": 0}),
        (CHAT, {"echo": True}, {**IDS, "logprobs": True}),
        # A plain answer has its usage unasked.
        (CHAT, {"stream": False}, {**IDS, "logprobs": True}),
    ],
)
def test_inject_adds_only_the_fields_that_the_request_lacks(
    dialect: Dialect, body: dict[str, object], changes: dict[str, object]
) -> None:
    found, stripper = inject(dialect, body, ALL)
    nothing, none = inject(dialect, body, ())

    assert found.changes == changes
    assert (stripper is None) == (not changes)
    assert (nothing.changes, none) == ({}, None)


@pytest.mark.parametrize("dialect", [CHAT, COMPLETIONS], ids=lambda dialect: dialect.name)
@pytest.mark.parametrize(
    ("options", "sent"),
    [
        (None, {"include_usage": True}),
        ({}, {"include_usage": True}),
        ({"include_usage": False}, {"include_usage": True}),
        ({"include_usage": "no", "other": 1}, {"include_usage": True, "other": 1}),
        ({"continuous_usage_stats": True}, {"continuous_usage_stats": True, "include_usage": True}),
        ({"include_usage": True}, None),
        ({"include_usage": 1}, None),
        ("refused", None),
        ([], None),
    ],
)
def test_inject_merges_usage_into_the_caller_s_stream_options(
    dialect: Dialect, options: object, sent: object
) -> None:
    found, _ = inject(dialect, {"stream": True, "stream_options": options}, {"usage"})

    assert found.changes.get("stream_options") == sent


def test_rewrite_keeps_the_bytes_of_other_values() -> None:
    body = rb'{"b":1.50, "a" : "\u00e9\/", "logprobs":null, "big":123456789012345678901, "n":[ 1 ]}'

    assert rewrite(body, {"logprobs": 0, "return_token_ids": True}) == (
        rb'{"b":1.50,"a":"\u00e9\/","logprobs":0,"big":123456789012345678901,"n":[ 1 ],'
        rb'"return_token_ids":true}'
    )
    assert rewrite(body, {}) is body


@given(st.dictionaries(st.text(), values), st.dictionaries(st.text(), values))
def test_rewrite_sets_the_changes(body: dict[str, object], changes: dict[str, object]) -> None:
    rewritten = msgspec.json.decode(rewrite(msgspec.json.encode(body), changes))

    assert rewritten == {**body, **changes}
    assert list(rewritten) == list({**body, **changes})


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b'{"a":}', b"\xff", b'{"a":' + b"[" * 9999])
@pytest.mark.parametrize("changes", [{}, {"a": 1}])
def test_rewrite_rejects_a_body_that_is_no_json_object(
    body: bytes, changes: dict[str, object]
) -> None:
    with pytest.raises(InvalidJSON, match="the request body must be a JSON object: "):
        rewrite(body, changes)


LIVE: list[tuple[str, dict[str, object]]] = [
    ("chat/completions", {}),
    ("chat/completions", {"logprobs": True, "top_logprobs": 1}),
    ("chat/completions", {"logprobs": "no", "return_token_ids": True}),
    ("chat/completions", {"top_logprobs": 1}),
    ("chat/completions", {"echo": True}),
    ("chat/completions", {"stop": ["e"]}),
    ("completions", {}),
    ("completions", {"logprobs": False}),
    ("completions", {"echo": True}),
    ("completions", {"prompt": [[46, 728], [334]]}),
]
STREAM: list[dict[str, object]] = [
    {},
    {"stream": True},
    {"stream": 1, "stream_options": {"include_usage": "no"}},
    {"stream": True, "stream_options": {"include_usage": True}},
]


@pytest.mark.vllm
@pytest.mark.skipif("VLLM_URL" not in os.environ, reason="VLLM_URL is not set")
@pytest.mark.parametrize("stream", STREAM, ids=str)
@pytest.mark.parametrize(("path", "more"), LIVE, ids=str)
def test_strip_restores_the_response_of_a_live_vllm(
    path: str, more: dict[str, object], stream: dict[str, object]
) -> None:
    dialect = dialect_of(f"/v1/{path}")
    assert dialect is not None
    with httpx.Client(base_url=os.environ["VLLM_URL"], timeout=60) as worker:
        model = worker.get("/v1/models").json()["data"][0]["id"]
        prompt = {"messages": [{"role": "user", "content": "Hi"}], "prompt": "Hi"}
        body = {"model": model, "max_tokens": 8, "temperature": 0, **prompt, **more, **stream}
        raw = msgspec.json.encode(body)
        found, stripper = inject(dialect, body, ALL)
        fields = active().functions.read_fields(raw)
        sent = set_keys(raw, found.changes, fields, found.added)

        for _ in range(5):  # vLLM may send two tokens in one event when it is busy
            expected = worker.post(f"/v1/{path}", content=raw).content
            answer = worker.post(f"/v1/{path}", content=sent).content
            if stripper is not None:
                answer = strip_any(stripper, answer)
            if _by_choice(answer) == _by_choice(expected):
                return
        assert _by_choice(answer) == _by_choice(expected)


def _by_choice(answer: bytes) -> list[bytes]:
    """The events, those of each choice in order: how choices interleave is chance."""
    events = [without_ids(event) for event in _events(answer)] or [without_ids(answer)]
    return sorted(events, key=lambda event: re.findall(rb'"choices":\[\{"index":[0-9]+', event))


def test_event_on_several_lines_takes_over_the_last_words_without_a_line_more() -> None:
    end = (
        b'data: {"id": "a",\ndata:  "choices": [{"index": 0, "finish_reason": "stop"}],\n'
        b'data:  "timings": null%b}\n\n'
    )
    usage = (
        b'data: {"choices":[],"usage":{"prompt_tokens":1},\ndata: "system_fingerprint":"f",\n'
        b'data: "timings":{"a":\ndata: 1,\ndata: "b":\ndata: 2}}\n\n'
    )
    stripper = Stripper({"usage"})
    events = Splitter().feed(end % b"" + usage)
    got = b"".join([stripper.event(event) for event in events])
    told = b', "system_fingerprint": "f"'
    assert got == end.replace(b"null", b'{"a":1,"b":2}') % told
