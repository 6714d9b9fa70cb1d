"""What a call is recognised by, whatever callers send."""

import contextlib
import json
from collections.abc import Callable, Mapping

import msgspec
import pytest
from gateway_plugins.stickiness.keys import Key, KeyReader
from gateway_plugins.stickiness.openings import Unsure
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gateway.kernel import VARIABLE, active, is_built
from gateway.testing import make_call

READER = KeyReader("X-Session-ID", ("prompt_cache_key", "user"), 20)

SYSTEM = {"role": "system", "content": "Be brief. "}
QUESTION = {"role": "user", "content": "What is a Ring?"}
ANSWER = {"role": "assistant", "content": "A circle."}

LONG = "X" * 100


def key_of(
    body: object, headers: Mapping[str, str] = {}, session_id: str | None = None
) -> Key | None:
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    call = make_call(data, headers=headers, session_id=session_id)
    return READER.named(call) or READER.of_body(call.body.data)


def test_key_reader_prefers_session_then_header_then_fields_then_prefix() -> None:
    body: dict[str, object] = {"prompt": "p", "user": "u", "prompt_cache_key": "c"}
    header = {"x-session-id": "h"}
    assert key_of(body, header, "s") == Key("session", "s")
    assert key_of(body, header, "") == Key("header", "h")
    assert key_of(body, {"x-session-id": ""}) == Key("field:prompt_cache_key", "c")
    del body["prompt_cache_key"]
    assert key_of(body) == Key("field:user", "u")
    assert key_of({**body, "user": ""}) == Key("prefix", "p")


def test_key_reader_separates_equal_values_of_different_kinds() -> None:
    found = [key_of({}, session_id="a"), key_of({}, {"x-session-id": "a"}), key_of({"user": "a"})]
    assert len({key.point() for key in found if key}) == 3


@pytest.mark.parametrize(
    ("body", "prefix"),
    [
        ({"prompt": "  Once Upon\n"}, "once upon"),
        ({"prompt": LONG}, "x" * 20),
        ({"prompt": ["One", "two"]}, "one"),
        ({"prompt": [1, 2, 3, 4, 5, 6]}, "1 2 3 4 5"),
        ({"prompt": [[1, 2], [3]]}, "1 2"),
        ({"prompts": ["One"]}, "one"),
        ({"prompts": [[7, 8]]}, "7 8"),
        ({"messages": [QUESTION]}, "what is a ring?"),
        ({"messages": [SYSTEM, QUESTION]}, "be brief. \nwhat is a"),
        ({"messages": [[SYSTEM, QUESTION], [ANSWER]]}, "be brief. \nwhat is a"),
        ({"messages": [{"content": [{"type": "text", "text": "Hi"}, {"type": "image"}]}]}, "hi"),
        ({"input": "Hello"}, "hello"),
        ({"input": [{"role": "user", "content": [{"text": "Hello"}]}]}, "hello"),
        ({"input": ["One", "two"]}, "one"),
    ],
)
def test_key_reader_takes_the_prefix_of_the_prompt(body: object, prefix: str) -> None:
    assert key_of(body) == Key("prefix", prefix)


def test_key_reader_accepts_a_number_as_the_user() -> None:
    assert key_of({"user": 7}) == Key("field:user", "7")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no json",
        b'{"prompt": "cut',
        b'{"prompt": "\xff"}',
        b'{"prompt": "\\ud800"}',
        b"[1]",
        b"[" * 5_000,
        b'{"prompt": ' + b"[" * 5_000 + b"1" + b"]" * 5_000 + b"}",
        {},
        {"prompt": ""},
        {"prompt": []},
        {"prompt": None},
        {"prompt": True},
        {"prompt": [[[[["deep"]]]]]},
        {"messages": []},
        {"messages": [{"role": 7, "content": "x"}]},
        {"messages": [{"content": None}]},
        {"messages": [{"content": [{"text": 7}]}]},
        {"messages": {"content": "x"}},
        {"user": {"id": 1}, "prompt": None},
    ],
)
def test_key_reader_finds_no_key_in_an_empty_or_invalid_body(body: object) -> None:
    assert key_of(body) is None


def test_key_reader_keeps_the_first_turn_s_key_as_a_conversation_grows() -> None:
    patient = KeyReader(None, (), 1_000)
    turns = [SYSTEM, QUESTION]
    first = patient.of_body(msgspec.json.encode({"messages": turns}))
    assert first is not None
    for _ in range(20):
        turns += [ANSWER, QUESTION]
        assert patient.of_body(msgspec.json.encode({"messages": turns})) == first


def test_key_reader_ignores_whitespace_in_the_json() -> None:
    body = {"messages": [SYSTEM, QUESTION], "prompt": [1, 2]}
    assert key_of(json.dumps(body, indent=3).encode()) == key_of(body)
    ids = {"prompt": [1, 2, 3]}
    assert key_of(json.dumps(ids, indent=3).encode()) == key_of(ids)


def test_key_reader_skips_disabled_kinds_of_key() -> None:
    call = make_call({"user": "u", "prompt": "p"}, headers={"x-session-id": "h"})
    data = call.body.data
    assert KeyReader(None, (), 0).named(call) is None
    assert KeyReader(None, (), 0).of_body(data) is None
    assert KeyReader(None, ("prompt",), 0).of_body(data) == Key("field:prompt", "p")
    assert KeyReader(None, ("prompt", "prompt"), 5).of_body(data) == Key("field:prompt", "p")
    assert KeyReader(None, ("class", "a-b"), 5).of_body(b'{"a-b": "x"}') == Key("field:a-b", "x")


QUICKLY = settings(max_examples=50)

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["role", "content", "text", "x"]), inner, max_size=3)
    ),
    max_leaves=12,
)
names = st.sampled_from(["messages", "prompt", "prompts", "input", "user", "prompt_cache_key"])


@QUICKLY
@given(st.dictionaries(names, values))
def test_key_reader_never_fails_on_a_json_body(body: dict[str, object]) -> None:
    key = key_of(json.dumps(body).encode())
    assert key is None or key.value


ids = st.lists(st.integers(1, 200_000), max_size=40)
messages = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "role": st.sampled_from(["system", "developer", "user", "", 7, None]),
            "content": st.text(max_size=9)
            | st.none()
            | st.lists(st.fixed_dictionaries({}, optional={"text": st.text() | st.none()})),
        },
    ),
    max_size=4,
)
usual = st.text() | ids | messages | st.lists(ids | messages, max_size=2)
odd = values | st.lists(st.integers(-1, 2), max_size=6)
long = st.text(min_size=300, max_size=300) | st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "developer", "user"]), "content": st.text(max_size=70)}
    ),
    max_size=4,
)
writers: list[Callable[[object], bytes]] = [
    lambda body: json.dumps(body).encode(),
    lambda body: json.dumps(body, indent=9).encode(),
    lambda body: json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass"),
]


@settings(max_examples=300)
@given(st.dictionaries(names, usual | odd, max_size=3), st.sampled_from(writers))
def test_key_of_a_parsed_body_is_that_of_its_text(
    body: dict[str, object], write: Callable[[object], bytes]
) -> None:
    """Or the parsed body says that it cannot tell."""
    data = write(body)
    try:
        parsed = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    for reader in (READER, KeyReader(None, (), 60), KeyReader(None, ("prompt",), 0)):
        with contextlib.suppress(Unsure):
            assert reader.of_object(parsed) == reader.of_body(data)


@pytest.mark.skipif(not is_built(), reason="the native kernel has not been built")
@settings(max_examples=300)
@given(st.dictionaries(names, usual | odd | long, max_size=3), st.sampled_from(writers))
def test_key_of_the_fields_of_a_body_is_that_of_its_text(
    body: dict[str, object], write: Callable[[object], bytes]
) -> None:
    data = write(body)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, "native")
        fields = active().functions.read_fields(data)
    assume(fields is not None)
    assert fields is not None
    for reader in (READER, KeyReader(None, (), 60), KeyReader(None, ("prompt",), 0)):
        assert reader.of_fields(data, fields) == reader.of_body(data)


@QUICKLY
@given(st.dictionaries(names, usual, max_size=3))
def test_key_of_a_parsed_body_is_known_for_texts_ids_and_messages(body: dict[str, object]) -> None:
    assert READER.of_object(body) == READER.of_body(msgspec.json.encode(body))


@pytest.mark.parametrize("body", [b'{"prompt": [7, -0]}', b'{"prompt": [7, 1.50]}'])
async def test_key_of_a_request_is_the_same_parsed_or_not(body: bytes) -> None:
    call = make_call(body)
    key = READER.of_request(call)
    assert key is not None
    await call.json()
    assert READER.of_request(call) == key


def test_key_reader_takes_the_first_of_many_token_ids() -> None:
    for separators in ((",", ":"), (", ", ": ")):
        body = json.dumps({"prompt": list(range(151_000, 155_000))}, separators=separators)
        assert key_of(body.encode()) == Key("prefix", "151000 151001 151002")


@QUICKLY
@given(st.binary(), st.sampled_from([b"", b'{"prompt":', b'{"messages":[{"content":']))
def test_key_reader_never_fails_on_arbitrary_bytes(data: bytes, before: bytes) -> None:
    key = READER.of_body(before + data)
    assert key is None or key.value
