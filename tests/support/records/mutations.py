"""Texts with some bytes of them changed, as no engine sends them."""

import random

SPICES = (
    *(b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b" ", b"\t", b"\n", b"\r", b"0", b"-", b"."),
    *(b"e", b"\x00", b"\x1f", b"\x7f", b"\xff", b"\xc3", b"\\u", b"\\ud800", b"\\udc00", b"null"),
    *(b"true", b"{}", b"[]", b'""', b'"stop"', b"\n\n", b"data: ", b'"token_ids":[1]', b"1e9"),
    *(b'"finish_reason":', b'"logprobs":', b'"index":0,', b'"delta":{}', b"\r\n", b"[DONE]"),
)


def mutated(chance: random.Random, text: bytes) -> bytes:
    """Return `text` with up to four changes: bytes put in, left out, replaced or repeated."""
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        start = chance.randrange(len(text) + 1)
        end = min(len(text), start + chance.choice((0, 0, 1, 1, 2, 8)))
        way = chance.randrange(4)
        if way == 0:
            text = text[:start] + chance.choice(SPICES) + text[start:]
        elif way == 1:
            text = text[:start] + text[end:]
        elif way == 2:
            text = text[:start] + chance.choice(SPICES) + text[end:]
        else:
            text = text[:end] + text[start:end] + text[end:]
    return text
