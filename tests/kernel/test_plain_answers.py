"""A plain answer out of which fields are taken is judged alike by each kernel, in any reads."""

import json
from collections.abc import Sequence

import pytest
from support.gateways.two_kernels import carried, kernels

from gateway import Ending
from gateway.kernel import is_built
from gateway.wire.injection import Injection

pytestmark = pytest.mark.skipif(not is_built(), reason="there is no native kernel")

IDS: frozenset[Injection] = frozenset(("token_ids", "logprobs"))
SAID = {"index": 0, "message": {"role": "assistant", "content": "a"}}


def answer(*reasons: str | None, **more: object) -> bytes:
    lists = {"logprobs": {"content": [{"token": '"error"'}]}, "token_ids": [1]}
    choices = [{**SAID, "finish_reason": reason, **lists} for reason in reasons]
    choices = [dict(sorted(choice.items())) for choice in choices]
    return json.dumps({"id": "a", "choices": choices, **more}).encode()


def in_reads(body: bytes, size: int) -> Sequence[bytes]:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return [head % len(body) + parts[0], *parts[1:]]


@pytest.mark.parametrize("reads", [1, 2, 3])
@pytest.mark.parametrize(
    ("body", "result"),
    [
        (answer("stop"), "success"),
        (answer("stop", "length"), "success"),
        (answer("abort"), "aborted"),
        (answer("stop", "abort"), "aborted"),
        (answer("error"), "error"),
        (answer("stop", error={"message": "no"}), "error"),
        (b'{"error":{"message":"no"}}', "error"),
    ],
)
async def test_end_of_an_answer_is_read_of_what_is_left_of_it(
    body: bytes, result: str, reads: int
) -> None:
    pieces = in_reads(body, len(body) // reads + 1)
    native, python = [
        await carried(kernel, pieces, IDS, body=b'{"model":"m","messages":[]}')
        for kernel in kernels()
    ]

    assert native == python
    assert native.result == result
    assert native.ending != Ending()
    assert b"".join(native.chunks) == body
    assert b"[1]" not in b"".join(native.sent)
