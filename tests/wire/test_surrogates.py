"""Lone halves of surrogate pairs: read as U+FFFD, and sent as they are."""

import json
import re
import sys

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.rewriting import rewrite
from gateway.wire.surrogates import guarded, readable

PIECES = [
    *(rb"\ud83d", rb"\ude00", rb"\uD83D", rb"\uDE00", rb"\\", rb"\n", rb"\u00e9", rb"\ufffd"),
    *(b"ud83d", b"a", "é".encode(), "😀".encode()),
]
texts = st.lists(st.sampled_from(PIECES), max_size=8).map(
    lambda pieces: b'"' + b"".join(pieces) + b'"'
)


@given(texts)
def test_readable_text_is_what_python_reads_with_lone_halves_replaced(text: bytes) -> None:
    lenient = re.sub("[\ud800-\udfff]", "�", json.loads(text))
    assert msgspec.json.decode(readable(text)) == lenient


@given(texts)
def test_guarded_text_is_json_and_can_be_restored(text: bytes) -> None:
    safe, restore = guarded(text)
    msgspec.json.decode(safe)
    assert restore(safe) == text


@given(texts, texts)
def test_rewriting_keeps_the_bytes_of_lone_halves(key: bytes, text: bytes) -> None:
    body = b'{"messages":%b,"x":{%b:%b},"n":1}' % (text, key, text)
    written = rewrite(body, {"n": 2, "logprobs": True})
    assert written == body[:-2] + b'2,"logprobs":true}'


def test_millions_of_halves_take_no_step_of_python_each() -> None:
    body = b'"' + rb"\ud83d" * 10_000 + rb"\\ud83d" * 10_000 + b'"'
    events: list[str] = []
    sys.setprofile(lambda _frame, event, _: events.append(event))
    try:
        seen = readable(body)
        safe, restore = guarded(body)
        restored = restore(safe)
    finally:
        sys.setprofile(None)
    assert (seen.count(rb"\ufffd"), restored) == (10_000, body)
    assert len(events) < 1_000
