"""The native kernel makes of a stream's events what `Stripper` makes of them, or leaves them."""

import json

import pytest
from support.gateways.two_kernels import kernels

from gateway.kernel import is_built
from gateway.testing import sse
from gateway.wire.injection import INJECTIONS, Injection, Stripper
from gateway.wire.sse import Splitter

pytestmark = pytest.mark.skipif(not is_built(), reason="there is no native kernel")

ALL: frozenset[Injection] = frozenset(INJECTIONS)
USAGE: frozenset[Injection] = frozenset(("usage",))
TOKENS: frozenset[Injection] = frozenset(("token_ids", "logprobs"))
OUTSIDE = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
TOKEN = {
    "index": 0,
    "delta": {"content": "x"},
    "logprobs": {"content": []},
    "finish_reason": None,
    "token_ids": [1],
}
FINISH = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop", "token_ids": [2]}


def event(*choices: dict[str, object], **more: object) -> bytes:
    return sse({**OUTSIDE, "choices": list(choices), **more})


FIRST = event(TOKEN, prompt_token_ids=[1, 2])
LAST = event(FINISH)
TOLD = event(usage={"prompt_tokens": 1, "completion_tokens": 2})
PRINTED = event(usage={"prompt_tokens": 1}, system_fingerprint="fp")
COMMENT = b": ping\n\n"


def check(
    *reads: bytes, injected: frozenset[Injection] = ALL, drop_empty: bool = True
) -> list[bool]:
    """Compare what both send for each read; return which reads the kernel took as a whole."""
    native = kernels()[0].functions
    one = Stripper(injected, drop_empty=drop_empty)
    other = Stripper(injected, drop_empty=drop_empty)
    taken: list[bool] = []
    for read in reads:
        strip = one.by(native)
        sent, length = (strip.strip_run(read) if strip is not None else None) or (b"", 0)
        rest = Splitter().feed(b"data: 0\n\n" + read[length:])[1:]
        found = sent + b"".join(map(one.event, rest))
        assert found == b"".join(map(other.event, Splitter().feed(read)))
        taken.append(length == len(read))
    assert one.close() == other.close()
    return taken


@pytest.mark.parametrize("injected", [ALL, USAGE, TOKENS])
@pytest.mark.parametrize("told", [TOLD, PRINTED])
def test_strip_takes_a_usual_stream(injected: frozenset[Injection], told: bytes) -> None:
    if injected == TOKENS:
        told = event(usage=None)
    assert check(FIRST, event(TOKEN), event(TOKEN), LAST, told, injected=injected) == [True] * 5
    assert check(FIRST + event(TOKEN) * 3 + LAST + told, injected=injected) == [True]


@pytest.mark.parametrize("own", [{}, {"system_fingerprint": None}, {"system_fingerprint": "own"}])
@pytest.mark.parametrize("told", [TOLD, PRINTED, event(usage={}, system_fingerprint=None)])
def test_event_that_is_held_gets_what_the_usage_tells(own: dict[str, object], told: bytes) -> None:
    assert check(event(TOKEN), event(FINISH, **own), told) == [True] * 3
    assert check((event(FINISH, **own) + told) * 9) == [True]


@pytest.mark.parametrize(
    "odd",
    [
        COMMENT,
        event(TOKEN),
        event(TOKEN, TOKEN),
        event(FINISH),
        event(),
        event(TOKEN, usage={"prompt_tokens": 1}),
        event(usage={"prompt_tokens": 1}, prompt_token_ids=[1]),
        event(usage={"prompt_tokens": 1}, prompt_text="x"),
        event({"index": 0, "delta": {}, "finish_reason": None}),
        event({"index": 0, "delta": {}, "logprobs": None}),
        event({**TOKEN, "finish_reason": ""}),
        event({**TOKEN, "finish_reason": "null"}),
        event({**TOKEN, "finish_reason": 1}),
        event({**TOKEN, "other": 1}),
        event({}),
        event(TOKEN, other=1),
        event(TOKEN).replace(b'"id":"c"', b'"id":null'),
        event(TOKEN).replace(b'"id":"c",', b""),
        event(TOKEN).replace(b'"id":"c"', b'"id":"c","id":"c"'),
        event(TOKEN).replace(b'"id":"c"', b'"i\\u0064":"c"'),
        event(TOKEN).replace(b'"created":1,"model":"m"', b'"model":"m","created":1'),
        event(TOKEN).replace(b'"id":', b'"id": '),
        event(TOKEN).replace(b"\n\n", b"\r\n\r\n"),
        event(TOKEN).replace(b"}\n\n", b"} \n\n"),
        event(TOKEN).replace(b'"choices":[{', b'"choices":{'),
        b"data: " + json.dumps({"error": {"message": "x"}}).encode() + b"\n\n",
        b"event: x\n" + event(TOKEN),
        b"data: {}\n\n",
        b"data: [DONE]\n\n",
    ],
)
@pytest.mark.parametrize("injected", [ALL, USAGE, TOKENS])
@pytest.mark.parametrize("before", [(), (event(TOKEN),), (event(TOKEN), LAST)])
def test_event_of_another_form_is_left_at_any_place(
    odd: bytes, injected: frozenset[Injection], before: tuple[bytes, ...]
) -> None:
    for drop_empty in (False, True):
        for after in ((TOLD,), (event(TOKEN), LAST, PRINTED), (LAST, COMMENT, TOLD)):
            events = (*before, odd, *after)
            check(*events, injected=injected, drop_empty=drop_empty)
            check(b"".join(events), injected=injected, drop_empty=drop_empty)


@pytest.mark.parametrize("drop_empty", [False, True])
@pytest.mark.parametrize("ids", [None, [], [3]])
@pytest.mark.parametrize("logprobs", [None, {}, 0])
@pytest.mark.parametrize("prompt", [{}, {"prompt_token_ids": None}, {"prompt_token_ids": [1]}])
@pytest.mark.parametrize("reason", [None, "stop"])
def test_event_without_content_is_dropped_if_it_has_injected_fields_alone(
    *, drop_empty: bool, ids: object, logprobs: object, prompt: dict[str, object], reason: object
) -> None:
    choice = {**TOKEN, "delta": {}, "logprobs": logprobs, "finish_reason": reason, "token_ids": ids}
    for injected in (ALL, USAGE, TOKENS, frozenset[Injection](("token_ids",))):
        taken = check(event(choice, **prompt), injected=injected, drop_empty=drop_empty)
        assert taken == [True]


def test_caller_that_asks_for_usage_itself_gets_it_by_the_kernel() -> None:
    steady = event(TOKEN, usage={"prompt_tokens": 1})
    assert check(steady, steady, LAST, TOLD, injected=TOKENS) == [True] * 4


def test_values_shorter_than_null_make_events_longer() -> None:
    short = event({**TOKEN, "logprobs": 0, "token_ids": 0}, prompt_token_ids=0)
    assert check(short * 100) == [True]


def test_hand_back_tells_whether_an_event_was_held() -> None:
    strip = Stripper(ALL).by(kernels()[0].functions)
    assert strip is not None
    assert strip.hand_back() is None
    assert strip.strip_run(LAST) == (b"", len(LAST))
    assert strip.hand_back() == LAST
    assert strip.hand_back() is None
    assert strip.strip_run(LAST + TOLD) == (LAST.replace(b"[2]", b"null"), len(LAST + TOLD))
    assert strip.hand_back() == b""
    assert strip.hand_back() is None
