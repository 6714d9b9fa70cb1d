"""The native kernel reads the tokens of a response as `read_usage` does, or leaves them."""

import pytest
from support.gateways.two_kernels import kernels
from support.records.mutated_answers import recorded_answers

from gateway import Usage
from gateway.kernel import is_built
from gateway.wire.reported.usage import DECODE_WHOLE_BELOW, read_usage

pytestmark = pytest.mark.skipif(not is_built(), reason="there is no native kernel")

PLAIN = sorted({one.body for one in recorded_answers() if not one.streamed})
BOTH = b'"prompt_tokens":7,"completion_tokens":5'
FAR = b'"x":"%b",' % (b"a" * DECODE_WHOLE_BELOW)


def taken(text: bytes) -> tuple[int, int, int, int] | None:
    """Compare both ways; return what the native kernel read."""
    native, _ = kernels()
    found = native.functions.read_usage(text)
    if found is not None:
        told = read_usage(text)
        assert told is not None
        assert Usage(*found) == told.read()
    return found


def test_usages_of_recorded_answers_are_read_alike() -> None:
    found = [taken(body) for body in PLAIN]

    assert len(found) - found.count(None) > len(found) / 2


@pytest.mark.parametrize("before", [b"", FAR])
@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        (b'"usage":{%b}', (7, 5, 0, 0)),
        (b' "usage":{ %b } ', (7, 5, 0, 0)),
        (b'"usage":{%b},"prompt_token_ids":[1,2,{"used":[]}]', (7, 5, 0, 0)),
        (b'"response":{"usage":1},"usage":{%b,"total_tokens":12}', (7, 5, 0, 0)),
        (b'"usage":{"prompt_tokens_details":{"cached_tokens":3},%b}', (7, 5, 3, 0)),
        (b'"usage":{%b,"prompt_tokens_details":{"cached_tokens":null,"a":[]}}', (7, 5, 0, 0)),
        (b'"usage":{%b,"prompt_tokens_details":null}', (7, 5, 0, 0)),
        (b'"usage":{%b,"completion_tokens_details":{"reasoning_tokens":4}}', (7, 5, 0, 4)),
        (b'"usage":{%b,"reasoning_tokens":4}', (7, 5, 0, 0)),
    ],
)
def test_usual_usage_is_read(before: bytes, text: bytes, tokens: tuple[int, int, int, int]) -> None:
    assert taken(b"{" + before + text.replace(b"%b", BOTH) + b"}") == tokens


@pytest.mark.parametrize("before", [b"", FAR])
@pytest.mark.parametrize(
    "text",
    [
        b"",
        b'"usage":null',
        b'"usage":{}',
        b'"usage":{"prompt_tokens":7}',
        b'"usage":{"prompt_tokens":7,"completion_tokens":0}',
        b'"usage":{"prompt_tokens":7,"completion_tokens":null}',
        b'"usage":{"prompt_tokens":7,"completion_tokens":5.0}',
        b'"usage":{"prompt_tokens":7,"completion_tokens":"5"}',
        b'"usage":{"prompt_tokens":7,"completion_tokens":-5}',
        b'"usage":{"prompt_tokens":7,"completion_tokens":4294967296}',
        b'"usage":{%b,"prompt_tokens":8}',
        b'"usage":{%b,"input_tokens":8}',
        b'"usage":{%b,"total_tokens":true}',
        b'"usage":{%b,"prompt_tokens_details":{"cached_tokens":8}}',
        b'"usage":{%b,"prompt_tokens_details":[]}',
        b'"usage":{%b,"completion_tokens_details":{"reasoning_tokens":6}}',
        b'"usage":{%b,"completion_tokens_details":{"cached_tokens":"a"}}',
        b'"usage":{%b},"timings":{"cache_n":2}',
        b'"response":{"usage":{%b}}',
        b'"usage":{%b}}',
        b'"usage":{%b},"usage" :{%b}',
        b'"usage":{%b},"a":NaN',
        b'"usage":{%b},"a":"',
        b'"usage":{%b',
    ],
)
def test_other_usage_is_left(before: bytes, text: bytes) -> None:
    assert taken(b"{" + before + text.replace(b"%b", BOTH) + b"}") is None


@pytest.mark.parametrize("before", [b'"timings":{"cache_n":2},', b'"usage" :{},'])
def test_fields_before_a_near_usage_are_read_too(before: bytes) -> None:
    assert taken(b'{%b"usage":{%b}}' % (before, BOTH)) is None
    assert taken(b'{%b%b"usage":{%b}}' % (before, FAR, BOTH)) == (7, 5, 0, 0)


def test_usage_in_another_object_does_not_count() -> None:
    text = b'"usage":{%b},"a":{"usage":{"prompt_tokens":1,"completion_tokens":1}}}' % BOTH
    assert taken(b"{" + text) == (7, 5, 0, 0)
    assert taken(b"{" + FAR + text) is None
