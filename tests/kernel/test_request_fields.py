"""The fields of a request, as the native kernel reads them, tell what decoding its body tells."""

import json
import string
from collections.abc import Callable, Iterator

import msgspec
import pytest
from fuzz.request_targets import difference
from hypothesis import assume, example, given
from hypothesis import strategies as st

from gateway import Call
from gateway.errors import InvalidJSON
from gateway.kernel import VARIABLE, active, is_built
from gateway.testing import make_call
from gateway.wire.apis.openai import CHAT
from gateway.wire.injection import INJECTIONS, inject
from gateway.wire.request import has_several, read_bounds, read_head, read_prompts
from gateway.wire.rewriting import rewrite, set_keys

pytestmark = pytest.mark.skipif(not is_built(), reason="the native kernel has not been built")

NAMES = (
    *("model", "stream", "n", "best_of", "prompt", "messages", "user", "stream_options"),
    *("max_tokens", "max_completion_tokens", "max_output_tokens", "logprobs", ""),
)
ODD = st.sampled_from(["é", 'a"b'])
numbers = st.integers(-3, 3) | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=4) | st.sampled_from(["5", "x" * 300]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


def bodies_of(names: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, object]]:
    return st.dictionaries(st.sampled_from(NAMES) | names, values, max_size=6)


# The kernel leaves a body with an escaped or non-ASCII name, or with an exponent, to Python.
plain_bodies = bodies_of(st.text(string.ascii_letters, max_size=3))
bodies = plain_bodies | bodies_of(ODD | st.text(max_size=3))
writers: list[Callable[[object], bytes]] = [
    lambda body: json.dumps(body).encode(),
    lambda body: json.dumps(body, indent=3).encode() + b"\r\n",
    lambda body: json.dumps(body, ensure_ascii=False).encode("utf-8", "replace"),
]
WRITTEN = (
    b'{"n":-0,"stream":1.0,"model":"\\u006d"}',
    b'{"model":7,"stream":true,"n":1}',
    b'{"prompt":[[1,2],[3]],"best_of":1e0,"n":"2"}',
    b'{"n":null,"prompt": ["a"],"stream":"off","max_tokens":1.5}',
)


@pytest.fixture(autouse=True, scope="module")
def native() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, "native")
        yield


@given(st.builds(lambda body, write: write(body), plain_bodies, st.sampled_from(writers)))
@example(WRITTEN[0])
@example(WRITTEN[1])
@example(WRITTEN[2])
@example(WRITTEN[3])
def test_fields_of_a_request_tell_what_its_body_tells(body: bytes) -> None:
    fields = active().functions.read_fields(body)
    assume(fields is not None)
    assert fields is not None
    assert difference(body, fields) == ""
    told, head = read_head(body, fields), read_head(body)
    assert (told.model, told.streams) == (head.model, head.streams)
    assert told.several >= has_several(body)
    for nested in (False, True):
        assert read_bounds(body, fields, nested=nested) == read_bounds(body, nested=nested)
    for name in ("prompt", "messages", "model"):
        assert read_prompts(body, name, fields) == read_prompts(body, name)


@given(bodies, bodies, st.sampled_from(writers))
def test_keys_set_without_decoding_are_those_that_are_set_with_it(
    body: dict[str, object], changes: dict[str, object], write: Callable[[object], bytes]
) -> None:
    data = write(body)
    fields = active().functions.read_fields(data)
    spliced, rewritten = set_keys(data, changes, fields), rewrite(data, changes)
    pairs = [json.loads(one, object_pairs_hook=list) for one in (spliced, rewritten)]
    assert pairs[0] == pairs[1]
    msgspec.json.decode(spliced)
    if fields is not None and changes and changes.keys().isdisjoint(fields):
        assert spliced.startswith(data[: data.rindex(b"}")])


@pytest.mark.parametrize(
    ("body", "spliced"),
    [
        (b"{}", b'{"k":[1]}'),
        (b" {\n} \n", b' {\n"k":[1]}'),
        (b'{"a": "}"}', b'{"a": "}","k":[1]}'),
        (b'{"a":{"k":2}\t}\r\n', b'{"a":{"k":2}\t,"k":[1]}'),
        (b'{"\\u006b":2}', b'{"k":[1]}'),
        (b'{"a":1,"a":2}', b'{"a":2,"k":[1]}'),
        (b'{"k":2,"a":3}', b'{"k":[1],"a":3}'),
    ],
)
def test_new_keys_come_at_the_end_of_a_body(body: bytes, spliced: bytes) -> None:
    fields = active().functions.read_fields(body)
    assert set_keys(body, {"k": [1]}, fields) == spliced


@pytest.mark.parametrize(
    "body",
    [
        {"logprobs": False},
        {"stream": 1},
        {"stream": True, "stream_options": {}},
        {"stream": True, "n": 2},
        {"stream": "true"},
        {"top_logprobs": 0, "messages": []},
    ],
)
def test_keys_alone_tell_what_is_injected_or_the_whole_is_read(body: dict[str, object]) -> None:
    data = msgspec.json.encode(body)
    fields = active().functions.read_fields(data)
    assert fields is not None
    found, _ = inject(CHAT, fields, INJECTIONS, lambda: body)
    wanted, _ = inject(CHAT, body, INJECTIONS)
    assert found == wanted
    written = set_keys(data, found.changes, fields, found.added)
    assert msgspec.json.decode(written) == {**body, **found.changes}


def native_call(body: bytes) -> Call:
    call = make_call(body)
    call.body.kernel = active()
    return call


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"a":}', b'{"a":"\xff"}', b'{"a":1e999}', b'{"a":1}x', b'{"\xff":1}']
)
def test_injecting_refuses_a_body_that_is_no_object(body: bytes) -> None:
    with pytest.raises(InvalidJSON) as plain:
        make_call(body).inject("token_ids")
    with pytest.raises(InvalidJSON) as native:
        native_call(body).inject("token_ids")
    assert str(native.value) == str(plain.value)


async def test_fields_of_a_body_are_read_once_and_counted_if_they_are_left() -> None:
    call = native_call(b'{"model":"m","n":2,"messages":[ {}, 7 ,[] ]}')
    kernel = call.body.kernel
    assert kernel is not None
    assert call.model == "m"
    assert call.body.fields == {"model": "m", "n": 2, "messages": (30, 43, 32, 34, 36, 37)}
    assert call.body.fields is call.body.fields
    assert (call.parsed, kernel.fallbacks["request"]) == (None, 0)

    twice = native_call(b'{"model":"m","model":"l"}')
    twice.body.kernel = kernel
    assert (twice.body.fields, twice.model, twice.streams) == (None, "l", False)
    assert kernel.fallbacks["request"] == 1


def test_fields_are_left_if_they_are_many_or_deep() -> None:
    read = active().functions.read_fields
    many = {f"key{number}": number for number in range(128)}
    assert read(json.dumps(many).encode()) == many
    assert read(json.dumps(many | {"one": 1}).encode()) is None
    assert read(b'{"a":' + b"[" * 40 + b"]" * 40 + b"}") is not None
    assert read(b'{"a":' + b"[" * 4_000 + b"]" * 4_000 + b"}") is None
