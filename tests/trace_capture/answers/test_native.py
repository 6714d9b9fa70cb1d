"""The kernel reads a response as the Python code does, or leaves it to that code."""

import json
from random import Random
from typing import Any

import msgspec
import pytest
from gateway_plugins.trace_capture.answers.assembly import assemble
from hypothesis import given
from hypothesis import strategies as st
from support.records.mutated_answers import Sent, mutated, number, recorded_answers
from support.records.random_answers import JSON, answers, exchanges, some

from gateway import Kernel, kernel

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MUTATIONS = 4_000


def native() -> Kernel:
    if not kernel.is_built():
        pytest.skip("the native kernel has not been built")
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv(kernel.VARIABLE, raising=False)  # it may name the other one for a whole run
        return kernel.active()


def is_read(sent: Sent, using: Kernel) -> bool:
    """Whether the kernel reads it; if so, as the Python code does."""
    before = using.fallbacks["record"]
    path, body, streamed = sent
    found = assemble(path, body, streamed=streamed, kernel=using)
    if using.fallbacks["record"] > before:
        return False
    assert found == assemble(path, body, streamed=streamed), sent
    return True


def test_the_kernel_reads_what_engines_send_for_a_call_that_succeeds() -> None:
    using = native()
    sent = recorded_answers()
    assert sum(is_read(one, using) for one in sent) >= 145


def test_the_kernel_reads_answers_of_engines_that_sort_all_keys() -> None:
    using, plain = native(), [one for one in recorded_answers() if not one.streamed]
    read = [one for one in plain if is_read(one, using)]
    assert read
    for one in read:
        assert is_read(by_key(one), using), one


def by_key(sent: Sent) -> Sent:
    """The same plain answer from an engine that sorts all keys."""
    body = msgspec.json.encode(msgspec.json.decode(sent.body), order="sorted")
    return Sent(sent.path, body, streamed=False)


@some
@given(answers(chat=True), st.booleans())
def test_the_kernel_reads_any_chat_response(answer: JSON, ascii_only: bool) -> None:
    check(CHAT, answer, ascii_only)


@some
@given(answers(chat=False), st.booleans())
def test_the_kernel_reads_any_completion_response(answer: JSON, ascii_only: bool) -> None:
    check(COMPLETIONS, answer, ascii_only)


def check(path: str, answer: JSON, ascii_only: bool) -> None:
    body = json.dumps(answer, ensure_ascii=ascii_only).encode()
    is_read(Sent(path, body, streamed=False), native())


@some
@given(exchanges(chat=True))
def test_the_kernel_reads_any_chat_stream(exchange: tuple[bytes, bytes]) -> None:
    is_read(Sent(CHAT, exchange[1], streamed=True), native())


@some
@given(exchanges(chat=False))
def test_the_kernel_reads_any_completion_stream(exchange: tuple[bytes, bytes]) -> None:
    is_read(Sent(COMPLETIONS, exchange[1], streamed=True), native())


def test_the_kernel_leaves_what_it_would_read_otherwise() -> None:
    using, chance, sent = native(), Random(15), recorded_answers()
    sent += [by_key(one) for one in sent if not one.streamed and one.body.startswith(b"{")]
    bodies = [one.body for one in sent]
    read = 0
    for _ in range(MUTATIONS):
        path, body, streamed = chance.choice(sent)
        read += is_read(Sent(path, mutated(chance, body, bodies), streamed), using)
    assert read > MUTATIONS // 20


def test_the_kernel_writes_numbers_as_msgspec_does() -> None:
    using, chance = native(), Random(15)
    read = 0
    for _ in range(MUTATIONS):
        written = number(chance)
        read += is_read(Sent(CHAT, with_logprob(written), streamed=False), using)
    assert read > MUTATIONS // 2


def with_logprob(written: bytes) -> bytes:
    entry = b'{"token":"a","logprob":%b,"bytes":[97],"top_logprobs":[%b]}' % (written, written)
    return b'{"choices":[{"logprobs":{"content":[%b]},"matched_stop":%b}]}' % (entry, written)


def choice_with(**fields: Any) -> bytes:
    return msgspec.json.encode({"choices": [{"index": 0, **fields}]})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b'{"choices":[]}',
        b'{"choices":[{}],"choices":[{}]}',
        b'{"choices":[{"index":0,"index":1}]}',
        b'{"choices":[{"message":{"a":1,"a":2}}]}',
        b'{"choices":[{"message":"\\ud800"}]}',
        b'{"choices":[{"message":"\xff"}]}',
        b'{"choices":[{"message":"\xed\xa0\x80"}]}',
        b'{"choices":[{"message":NaN}]}',
        b'{"choices":[{"message":%b}]}' % (b"[" * 2_000 + b"]" * 2_000),
        b'{"choices":[{"message":%b}]}' % (b'{"a":' * 90_000),
        b'{"choices":[{"message":0.%b1}]}' % (b"0" * 20_000),
        b'{"choices":[{"message":1e%b}]}' % (b"9" * 20_000),
        b'{"choices":[{"unheard_of":1}]}',
        b'{"choices":[{}]} x',
        b'{"choices":[{}],}',
        choice_with(token_ids=[2**31]),
        choice_with(token_ids=[-1]),
        choice_with(token_ids=[1.5]),
        choice_with(token_ids=[True]),
        choice_with(index=-1),
        choice_with(finish_reason=1),
        choice_with(logprobs={"content": [{"token": "a"}]}),
        choice_with(logprobs={"content": [{"token": "a", "logprob": 1e300}]}),
    ],
    ids=lambda body: body[:40].decode(errors="replace"),
)
def test_the_kernel_leaves(body: bytes) -> None:
    assert not is_read(Sent(CHAT, body, streamed=False), native())


@pytest.mark.parametrize(
    "body",
    [
        b'{"choices":[{}]}',
        b' { "choices" : [ { } ] } ',
        b'{"choices":[{"logprobs":{}}]}',
        b'{"choices":[{"logprobs":{"content":[]}}]}',
        choice_with(message={"content": '\x00\x1f\n"\\/\x7f\u2028é😀'}),
        choice_with(token_ids=[]),
        choice_with(token_ids=[0, 2**31 - 1], finish_reason="null"),
        choice_with(logprobs={"content": [{"token": "a", "logprob": -0.1}]}),
        choice_with(logprobs={"content": [{"token": "é" * 40_000, "logprob": None}]}),
        b'{"choices":[{}],"usage":{"prompt_tokens":"7","output_tokens":1e0}}',
        b'{"choices":[{}],"metadata":{"weight_version":"v1"},"weight_version":null}',
    ],
    ids=lambda body: body[:40].decode(errors="replace"),
)
def test_the_kernel_reads(body: bytes) -> None:
    assert is_read(Sent(CHAT, body, streamed=False), native())


def test_the_kernel_gives_choices_of_a_chat_one_prompt() -> None:
    body = b'{"choices":[{"index":0},{"index":1}],"prompt_token_ids":[1,2]}'
    one, other = assemble(CHAT, body, streamed=False, kernel=native()).parts
    assert one.packed_prompt is other.packed_prompt
    assert other.prompt_token_ids == [1, 2]


BEGINNING = b'{"id":"c","model":"m","choices":['
CHOICE = b'{"index":0,"delta":{"content":"a"},"finish_reason":null}'


@pytest.mark.parametrize(
    ("later", "is_taken"),
    [
        (BEGINNING + CHOICE + b"]}", True),
        (BEGINNING + CHOICE + b'],"id":"c"}', False),
        (BEGINNING + CHOICE + b'],"choices":[]}', False),
        (BEGINNING + CHOICE + b'],"usage":{"completion_tokens":2}}', True),
        (BEGINNING + CHOICE + b'],"created":1}', True),
        (BEGINNING + b"]}", True),
        (BEGINNING, False),
        (BEGINNING.replace(b"id", b"object") + CHOICE + b"]}", True),
        (b'{"model":"n","id":"d","choices":[' + CHOICE + b"]}", True),
        (b'{"choices":[' + CHOICE + b'],"model":"n","id":"d"}', True),
        (b'{"choices":[{"finish_reason":"stop","delta":{},"index":0}]}', True),
        (b'{"choices":[{"delta":{"content":"b"},"index":0,"delta":{}}]}', False),
    ],
)
def test_the_kernel_reads_events_that_begin_as_others_or_in_another_order(
    later: bytes, is_taken: bool
) -> None:
    first = BEGINNING + CHOICE + b"]}"
    events = [first, first, later, first, later, first]
    body = b"".join(b"data: %b\n\n" % event for event in events)
    assert is_read(Sent(CHAT, body, streamed=True), native()) == is_taken


def test_the_kernel_heeds_a_prompt_in_events_that_begin_alike() -> None:
    """An event with a prompt counts for what follows it, even if that is an empty text."""
    begun = BEGINNING.replace(b'"choices"', b'"prompt_token_ids":[1],"choices"') + CHOICE
    events = [begun + b'],"service_tier":"x"}', begun + b'],"service_tier":""}']
    body = b"".join(b"data: %b\n\n" % event for event in events)
    assert is_read(Sent(CHAT, body, streamed=True), native())


def stream_of(*fragments: Any) -> bytes:
    """A stream of a chat with tool calls, each fragment in an event of its own."""
    deltas = [{"role": "assistant", "tool_calls": None}, *({"tool_calls": [f]} for f in fragments)]
    events = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    return b"".join(b"data: %b\n\n" % msgspec.json.encode(one) for one in [*events, {}])


def fragment(index: int | None = 0, id_: str | None = None, **function: str | None) -> JSON:
    where = {} if index is None else {"index": index}
    return {"id": id_, "type": "function", **where, "function": function}


BEGUN = fragment(0, "call-1", name="look", arguments="")


@pytest.mark.parametrize(
    "fragments",
    [
        [BEGUN],
        [BEGUN, fragment(arguments='{"a"'), fragment(arguments=":1}"), fragment(arguments=None)],
        [BEGUN, fragment(1, "call-2", name="see", arguments="{}"), fragment(arguments="{}")],
        [fragment(7, "call-2", arguments="[]", name="see"), BEGUN],
        [BEGUN, {"index": 0, "function": {"arguments": '\n"\u00e9'}}, {"index": 0}],
        [{"index": 0, "function": {}}, BEGUN],
        [fragment(0, "", name=""), BEGUN, fragment(0, "call-1")],
        [fragment(name=None, arguments="{}")],
    ],
)
def test_the_kernel_puts_tool_calls_together(fragments: list[JSON]) -> None:
    assert is_read(Sent(CHAT, stream_of(*fragments), streamed=True), native())


@pytest.mark.parametrize(
    "fragments",
    [
        [BEGUN, fragment(0, "call-2", name="see")],
        [BEGUN, fragment(name="look", arguments="{}")],
        [BEGUN, {**fragment(), "type": "custom"}],
        [BEGUN, fragment(None, arguments="{}")],
        [{**BEGUN, "custom": {"name": "x"}}],
        [{**BEGUN, "function": None}],
        [fragment(-1, name="look")],
        ["look"],
    ],
)
def test_the_kernel_leaves_tool_calls_that_do_not_fit(fragments: list[Any]) -> None:
    assert not is_read(Sent(CHAT, stream_of(*fragments), streamed=True), native())


@pytest.mark.parametrize("name", ["text_offset", "top_logprobs"])
@pytest.mark.parametrize("count", [1, 6, 501])
def test_the_kernel_leaves_lists_that_begin_after_the_first_chunk(name: str, count: int) -> None:
    item: object = 0 if name == "text_offset" else {"a": -1.0}
    first = {"tokens": ["a"] * 500, "token_logprobs": [-1.0] * 500}
    later = {"tokens": ["b"], "token_logprobs": [-1.0], name: [item] * count}
    events = [{"choices": [{"index": 0, "text": "", "logprobs": one}]} for one in (first, later)]
    body = b"".join(b"data: %b\n\n" % msgspec.json.encode(one) for one in events)
    assert not is_read(Sent(COMPLETIONS, body, streamed=True), native())
