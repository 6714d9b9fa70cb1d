"""The native kernel strips a whole answer as `Stripper.plain` does, or leaves it."""

import pytest
from support.gateways.two_kernels import kernels
from support.records.mutated_answers import recorded_answers

from gateway.kernel import is_built
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.readers import AnswerReader
from gateway.plugins.chains import Chains, Failures
from gateway.testing import make_call
from gateway.wire.injection import Injection, Stripper

pytestmark = pytest.mark.skipif(not is_built(), reason="there is no native kernel")

BOTH: frozenset[Injection] = frozenset(("token_ids", "logprobs"))
KINDS: list[frozenset[Injection]] = [BOTH, frozenset({"token_ids"}), frozenset({"logprobs"})]
PLAIN = sorted({one.body for one in recorded_answers() if not one.streamed})
CHOICE = b'{"index":0,"message":{"content":"a"},"logprobs":{"content":[]},"finish_reason":"stop"%b}'
ANSWER = b'{"id":"a","choices":[%b],"usage":{"total_tokens":1}%b}'
IDS = b',"token_ids":[1,2]'


def taken(body: bytes, injected: frozenset[Injection] = BOTH) -> bytes | None:
    """Compare both ways; return what the native kernel made of the answer."""
    native, _ = kernels()
    found = native.functions.strip_answer(body, "token_ids" in injected, "logprobs" in injected)
    assert found is None or found == Stripper(injected).plain(body)
    return found


@pytest.mark.parametrize("injected", KINDS)
def test_recorded_answers_are_stripped_alike(injected: frozenset[Injection]) -> None:
    found = [taken(body, injected) for body in PLAIN]

    assert len(found) - found.count(None) > len(found) / 2


@pytest.mark.parametrize(
    "body",
    [
        ANSWER % (CHOICE % IDS, b""),
        ANSWER % (CHOICE % IDS, b',"prompt_token_ids":[1]'),
        ANSWER % (CHOICE % IDS + b"," + CHOICE % IDS, b',"prompt_token_ids":null'),
        ANSWER % (CHOICE % b',"unknown":[{"token_ids":[1]}],"prompt_token_ids":[1]', b""),
        (ANSWER % (CHOICE % IDS, b"")).replace(b",", b", ").replace(b":", b": "),
        b" \r\n" + (ANSWER % (CHOICE % IDS, b"")).replace(b",", b",\n\t") + b"\n",
        b'{"choices":[{"text":"a","logprobs":{"tokens":["\\"]}"]},"token_ids":0,"index":0}]}',
        b'{"choices":[{"finish_reason":"stop","index":0,"logprobs":{},"message":{}}]}',
    ],
)
def test_fields_become_null_and_all_else_stays(body: bytes) -> None:
    for injected in KINDS:
        assert taken(body, injected) is not None
    assert taken(body) != body


@pytest.mark.parametrize(
    "body",
    [
        ANSWER % (b"", b""),
        b"{}",
        b'{"error":{"message":"token_ids"}}',
        b'{"choices":[{"index":0,"message":{},"logprobs":null,"token_ids":null}]}',
        b'{"choices":[{"delta":{"logprobs":{}}}],"logprobs":{}}',
    ],
)
def test_answer_with_nothing_injected_is_the_same_object(body: bytes) -> None:
    assert taken(body) is body


@pytest.mark.parametrize(
    "body",
    [
        ANSWER % (CHOICE % (IDS + IDS), b""),
        ANSWER % (CHOICE % IDS, b',"choices":[]'),
        ANSWER % (CHOICE % b',"token\\u005fids":[1]', b""),
        ANSWER % (CHOICE % b',"logprobs":{}', b""),
        ANSWER % (CHOICE % b',"provider_specific_fields":{"token_ids":[1]}', b""),
        ANSWER % (b'{"message":{},"finish_reason":"stop","logprobs":{}}', b""),
        ANSWER % (b'{"delta":{},"finish_reason":"stop","logprobs":{}}', b""),
        ANSWER % (CHOICE % IDS + b",", b""),
        ANSWER % (CHOICE % IDS + b",1", b""),
        ANSWER % (CHOICE % b',"token_ids":[1', b""),
        ANSWER % (CHOICE % b',"token_ids":"a', b""),
        ANSWER % (CHOICE % b',"token_ids":', b""),
        ANSWER % (CHOICE % b',"token_ids":"\\', b""),
        b"\xef\xbb\xbf" + ANSWER % (CHOICE % IDS, b""),
        ANSWER % (CHOICE % IDS, b"") + b"\0",
        ANSWER % (CHOICE % IDS, b"") + b"{}",
        b'{"choices":null}',
        b'{"choices":[null]}',
        b"[]",
        b"",
        b"{",
    ],
)
def test_answer_of_another_form_is_left(body: bytes) -> None:
    assert taken(body) is None


def test_what_a_kernel_leaves_is_stripped_in_python_and_counted() -> None:
    for kernel in kernels():
        before = kernel.fallbacks["plain"]
        exchange = Exchange(make_call({}), Chains(Failures(), kernel=kernel))
        for body in (ANSWER % (CHOICE % IDS, b""), ANSWER % (CHOICE % IDS, b"") + b"\0"):
            reader = AnswerReader(exchange, Stripper(BOTH), 1_000)
            assert reader.feed(body) == b""
            assert b'"token_ids":null' in reader.close()
        assert kernel.fallbacks["plain"] - before == (1 if kernel.name == "native" else 2)
