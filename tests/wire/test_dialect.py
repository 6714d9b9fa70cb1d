from collections.abc import Iterable
from contextlib import suppress

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.records.vllm_recordings import OTHER_ENGINES, RecordedExchange, load

from gateway.wire.apis.openai import CHAT, COMPLETIONS
from gateway.wire.apis.registry import dialect_of
from gateway.wire.dialect import ChoiceDelta, Delta, Dialect, Unreadable
from gateway.wire.reported.usage import Usage
from gateway.wire.sse import Splitter

RECORDED = load()
ANSWERED = [
    exchange
    for exchange in RECORDED.values()
    if dialect_of(exchange.path) and exchange.status == 200 and exchange.method == "POST"
]


class Gathered(msgspec.Struct):
    """A choice as a capture hook would build it up from deltas."""

    text: str = ""
    token_ids: list[int] = []
    logprobs: list[float | None] = []
    prompt_token_ids: list[int] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


def gather(deltas: Iterable[Delta]) -> dict[int, Gathered]:
    gathered: dict[int, Gathered] = {}
    for delta in deltas:
        for choice in delta.choices:
            seen = gathered.setdefault(choice.index, Gathered())
            seen.text += choice.text
            seen.token_ids += choice.token_ids
            seen.logprobs += choice.logprobs
            seen.prompt_token_ids = choice.prompt_token_ids or seen.prompt_token_ids
            seen.finish_reason = choice.finish_reason or seen.finish_reason
            seen.stop_reason = choice.stop_reason or seen.stop_reason
    return gathered


def read(exchange: RecordedExchange) -> list[Delta]:
    dialect = dialect_of(exchange.path)
    assert dialect is not None
    if not exchange.body.startswith(b"data:"):
        return [dialect.read_answer(exchange.body)]
    splitter = Splitter()
    events = splitter.feed(exchange.body) + ([] if exchange.cut_short else splitter.close())
    return [dialect.read_event(event.data) for event in events if event.data is not None]


def usage_of(deltas: Iterable[Delta]) -> Usage:
    return [delta.usage for delta in deltas if delta.usage is not None][-1]


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/v1/chat/completions", CHAT),
        ("/v1/completions", COMPLETIONS),
        ("/v1/chat/completions/", None),
        ("/v1/models", None),
    ],
)
def test_dialect_of_maps_exact_paths_to_a_dialect(path: str, dialect: Dialect | None) -> None:
    assert dialect_of(path) is dialect


@pytest.mark.parametrize("exchange", ANSWERED, ids=lambda exchange: exchange.name)
def test_dialect_reads_every_recorded_response_whole(exchange: RecordedExchange) -> None:
    asked = msgspec.json.decode(exchange.request_body)

    deltas = read(exchange)

    choices = gather(deltas)
    died = any(delta.error for delta in deltas)
    assert choices
    if not died and not exchange.cut_short:
        assert all(choice.finish_reason for choice in choices.values())
    if asked.get("return_token_ids"):
        assert all(choice.token_ids and choice.prompt_token_ids for choice in choices.values())
        if asked.get("logprobs") is not None:
            for choice in choices.values():
                assert len(choice.logprobs) == len(choice.token_ids)
        if not died and any(delta.usage for delta in deltas):
            sampled = sum(len(choice.token_ids) for choice in choices.values())
            assert sampled == usage_of(deltas).completion_tokens


@pytest.mark.parametrize(
    ("stream", "plain"),
    [
        ("default/chat_stream_token_ids_logprobs_usage", "default/chat_token_ids_logprobs"),
        ("default/chat_stream_interval3", "default/chat_token_ids_logprobs"),
        ("default/chat_eos_forced_stream", "default/chat_eos_forced"),
        ("default/comp_token_in_stream", "default/comp_token_in"),
    ],
)
def test_dialect_reads_the_same_from_a_stream_and_a_plain_response(stream: str, plain: str) -> None:
    streamed, whole = read(RECORDED[stream]), read(RECORDED[plain])

    assert gather(streamed) == gather(whole)
    assert usage_of(streamed) == usage_of(whole)
    assert streamed[-1].done


def test_dialect_reads_token_id_and_logprob_of_a_chat_event() -> None:
    _, _, third, *_ = read(RECORDED["default/chat_stream_token_ids_logprobs_usage"])

    assert third == Delta(
        [ChoiceDelta(0, "", [125], [-2.387357473373413])],
        id="chatcmpl-9d59eb87a625c799",
        model="tiny",
    )


def test_dialect_reads_finish_usage_and_done_of_a_chat() -> None:
    *_, finish, usage, done = read(RECORDED["default/chat_stop_token_ids_stream"])

    assert finish.choices == [
        ChoiceDelta(0, "", [958], [-1.4120399951934814], "stop", stop_reason=958)
    ]
    assert (usage.choices, usage.usage) == ([], Usage(38, 4))
    assert done == Delta(done=True)


def test_dialect_reads_id_and_logprob_of_an_eos_token() -> None:
    (delta,) = read(RECORDED["default/chat_eos_forced"])

    (choice,) = delta.choices
    assert (choice.text, choice.token_ids, choice.finish_reason) == ("", [2], "stop")
    assert choice.logprobs == [-9.148679733276367]


def test_dialect_gives_each_chat_choice_its_prompt_ids_once() -> None:
    deltas = read(RECORDED["default/chat_stream_n2_token_ids_usage"])

    carriers = [
        (choice.index, len(choice.prompt_token_ids))
        for delta in deltas
        for choice in delta.choices
        if choice.prompt_token_ids
    ]
    assert carriers == [(0, 38), (1, 38)]


def test_dialect_gives_each_prompt_s_choices_their_own_prompt_ids() -> None:
    choices = gather(read(RECORDED["default/comp_token_in_batch_n2_stream"]))

    lengths = {index: len(choice.prompt_token_ids or ()) for index, choice in choices.items()}
    assert lengths == {0: 12, 1: 12, 2: 4, 3: 4}


@pytest.mark.parametrize("name", ["default/comp_echo_logprobs", "default/comp_echo_stream"])
def test_dialect_reads_no_logprobs_of_an_echoed_prompt(name: str) -> None:
    choices = gather(read(RECORDED[name]))

    assert choices[0].token_ids == [422, 36]
    assert choices[0].logprobs == [-2.390371084213257, -1.8902000188827515]


def test_dialect_reads_the_error_of_a_dying_engine_before_done() -> None:
    *_, error, done = read(RECORDED["crash/kill9_worker_stream"])

    assert error.error is not None
    assert error.error.startswith("EngineCore encountered an issue.")
    assert done.done


def test_dialect_reads_continuous_usage() -> None:
    deltas = read(RECORDED["default/chat_stream_continuous_usage"])

    counts = [delta.usage.completion_tokens for delta in deltas if delta.usage]
    assert counts == [0, 1, 3, 4, 5, 6, 7, 8, 8]


@pytest.mark.parametrize(
    "name", ["llamacpp/chat_logprobs_top2", "llamacpp/chat_logprobs_top2_stream"]
)
def test_dialect_reads_the_ids_in_llama_cpp_s_logprobs(name: str) -> None:
    choices = gather(read(load(OTHER_ENGINES)[name]))

    assert choices[0].token_ids == [7, 207, 7, 207, 3, 207, 99, 10, 612, 77, 421, 323]
    assert len(choices[0].logprobs) == 12


def test_dialect_reads_the_logprobs_of_llama_cpp_s_completions() -> None:
    choices = gather(read(load(OTHER_ENGINES)["llamacpp/comp_logprobs2"]))

    assert choices[0].token_ids == [84, 395, 74, 395, 74, 395, 20, 229]
    assert choices[0].logprobs[:2] == [-0.3833503723144531, -0.0037150164134800434]


def test_dialect_reads_the_ids_in_litellm_s_own_fields() -> None:
    choices = gather(read(load(OTHER_ENGINES)["litellm-1.105.0/chat_ids_plain"]))

    assert choices[0].token_ids == [7, 207, 7, 207, 3, 207, 99, 10, 612, 77, 421, 323]
    assert len(choices[0].prompt_token_ids or ()) == 30


def test_dialect_reads_no_ids_if_one_of_them_is_missing() -> None:
    body = b'{"choices":[{"logprobs":{"content":[{"logprob":-1,"id":5},{"logprob":-1}]}}]}'

    assert CHAT.read_answer(body).choices[0].token_ids == []


def test_dialect_reads_the_text_of_content_in_parts() -> None:
    body = b'{"choices":[{"delta":{"content":[{"text":"a"},7,{"image":1},{"text":"b"}]}}]}'

    assert CHAT.read_answer(body).choices[0].text == "ab"


def test_dialect_keeps_null_and_minimum_logprobs_in_place() -> None:
    chat = b'{"choices":[{"logprobs":{"content":[{"logprob":null},{"logprob":-9999.0}]}}]}'
    completion = b'{"choices":[{"logprobs":{"token_logprobs":[null,-9999.0]}}]}'

    for dialect, body in [(CHAT, chat), (COMPLETIONS, completion)]:
        assert dialect.read_answer(body).choices[0].logprobs == [None, -9999.0]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":{"message":"no such model","code":404}}', "no such model"),
        (b'{"error":"no such model"}', "no such model"),
        (b'{"error":{"reason":7}}', '{"reason":7}'),
        (b'{"error":null,"choices":[]}', None),
    ],
)
def test_dialect_reads_an_error_in_any_shape(body: bytes, message: str | None) -> None:
    assert CHAT.read_event(body).error == message


@pytest.mark.parametrize("dialect", [CHAT, COMPLETIONS], ids=lambda dialect: dialect.name)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[DONE",
        b"[]",
        b'{"choices":null}',
        b'{"choices":[{"logprobs":"none"}]}',
        b'{"choices":[{"logprobs":{"content":[7],"token_logprobs":["x"]}}]}',
        b'{"choices":[{"token_ids":[1.5]}]}',
        b'{"choices":[{"token_ids":[NaN]}]}',
        b'{"choices":[{"index":1e999}]}',
        b'{"id":"\xff"}',
        b'{"other":' + b"[" * 100_000,
    ],
    ids=lambda body: body[:40].decode(errors="replace"),
)
def test_dialect_raises_unreadable_for_an_invalid_response(dialect: Dialect, body: bytes) -> None:
    with pytest.raises(Unreadable, match=rf"cannot be read as {dialect.name}: "):
        dialect.read_answer(body)


NAMES = """
    choices index delta message content logprobs token_logprobs logprob token_ids usage text
    prompt_token_ids prompt_tokens finish_reason stop_reason error id model
"""
names = st.sampled_from(NAMES.split())
scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=3)
values = st.recursive(
    scalars | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=20,
)
answers = st.dictionaries(names, values) | st.fixed_dictionaries(
    {"choices": st.lists(st.dictionaries(names, values), max_size=2)}
)


@pytest.mark.parametrize("dialect", [CHAT, COMPLETIONS], ids=lambda dialect: dialect.name)
@given(value=answers | values)
@example(value={"choices": [{"logprobs": {"content": None}}]})
def test_dialect_reads_any_json_or_raises_unreadable(dialect: Dialect, value: object) -> None:
    _read_or_unreadable(dialect, msgspec.json.encode(value))


@pytest.mark.parametrize("dialect", [CHAT, COMPLETIONS], ids=lambda dialect: dialect.name)
@given(start=st.integers(0, 400), replacement=st.binary(max_size=4), answer=st.booleans())
def test_dialect_reads_damaged_bytes_or_raises_unreadable(
    dialect: Dialect, start: int, replacement: bytes, answer: bool
) -> None:
    body = RECORDED["default/chat_token_ids_logprobs"].body if answer else b""

    _read_or_unreadable(dialect, body[:start] + replacement + body[start + 2 :])


def _read_or_unreadable(dialect: Dialect, data: bytes) -> None:
    for read_one in (dialect.read_event, dialect.read_answer):
        with suppress(Unreadable):
            assert isinstance(read_one(data), Delta)


@pytest.mark.parametrize("path", ["/v1/chat%2Fcompletions", "/v1/%63hat/completions"])
def test_dialect_of_decodes_a_percent_encoded_path(path: str) -> None:
    assert dialect_of(path) is CHAT
