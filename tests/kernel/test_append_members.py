"""The native kernel adds members to a request as `injection.rewrite` does, or leaves it."""

import msgspec
import pytest
from support.gateways.two_kernels import kernels
from support.records.vllm_recordings import load

from gateway.kernel import is_built
from gateway.wire.apis.openai import CHAT
from gateway.wire.injection import INJECTIONS, add, inject, rewrite

pytestmark = pytest.mark.skipif(not is_built(), reason="there is no native kernel")

MEMBERS = {"return_token_ids": True, "logprobs": 0}
REQUESTS = {
    one.request_body
    for one in load().values()
    if one.request_body.endswith(b"}")
    and MEMBERS.keys().isdisjoint(msgspec.json.decode(one.request_body))
}


def taken(body: bytes) -> bytes | None:
    """Compare both ways; return what the native kernel made of the request."""
    native, _ = kernels()
    found = native.functions.append_members(body, b',"return_token_ids":true,"logprobs":0')
    assert found is None or found == rewrite(body, MEMBERS)
    return found


def test_recorded_requests_are_extended_alike() -> None:
    assert [body for body in REQUESTS if taken(body) is None] == [b"{}"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m"}',
        b' {"model" : "m" ,\r\n\t"messages": [ {"content": "\\"}]" } ] } \n',
        b'{"a":-1.50e3,"b":true,"c":null,"":{},"d":"\xc3\xa9\\ud800"}',
        b'{"' + b'":1,"'.join(b"%d" % number for number in range(32)) + b'":1}',
    ],
)
def test_members_keep_their_bytes_without_space_around(body: bytes) -> None:
    assert taken(body) is not None


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"a":1,"b":2,"a":3}',
        b'{"\\u0061":1}',
        b'{"\xc3\xa9":1}',
        b'{"' + b'":1,"'.join(b"%d" % number for number in range(33)) + b'":1}',
    ],
)
def test_other_objects_are_left(body: bytes) -> None:
    assert taken(body) is None


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"a"', b'{"a":', b'{"a":1', b'{"a":"', b'{"a":[', b'{"a":1}}']
)
def test_text_that_is_no_object_is_left(body: bytes) -> None:
    native, _ = kernels()

    assert native.functions.append_members(body, b',"b":1') is None


@pytest.mark.parametrize("body", [{"model": "m"}, {"stream": True}, {"stream": False, "n": 2}])
def test_what_is_known_beforehand_is_added_by_each_kernel(body: dict[str, object]) -> None:
    found, _ = inject(CHAT, body, INJECTIONS)
    written = msgspec.json.encode({**body, **found.changes})

    assert found.added
    for kernel in kernels():
        before = kernel.fallbacks["request"]
        assert add(msgspec.json.encode(body), found, kernel) == written
        assert kernel.fallbacks["request"] - before == (kernel.name == "python")


@pytest.mark.parametrize(
    "body",
    [
        {"logprobs": False},
        {"stream": 1},
        {"stream": True, "stream_options": {}},
        {"top_logprobs": 0},
    ],
)
def test_body_with_a_key_that_decides_is_rewritten(body: dict[str, object]) -> None:
    found, _ = inject(CHAT, body, INJECTIONS)

    assert found.changes
    for kernel in kernels():
        written = add(msgspec.json.encode(body), found, kernel)
        assert written == msgspec.json.encode({**body, **found.changes})
