"""Logprobs of chat as those of an output text: the same numbers, other fields.

A delta has no bytes of tokens, the parts of an item have them.
"""

import msgspec


class Alternative(msgspec.Struct, gc=False):
    token: str
    bytes: list[int] | None
    logprob: float


class Token(msgspec.Struct, gc=False):
    token: str
    bytes: list[int] | None
    logprob: float
    top_logprobs: list[Alternative] = []


class _ShortAlternative(msgspec.Struct, gc=False):
    token: str
    logprob: float


class _ShortToken(msgspec.Struct, gc=False):
    token: str
    logprob: float
    top_logprobs: list[_ShortAlternative]


class _Logprobs(msgspec.Struct, gc=False):
    content: list[Token] | None = None


_decode = msgspec.json.Decoder(_Logprobs | None).decode
encode = msgspec.json.Encoder().encode


def read(logprobs: msgspec.Raw) -> list[Token]:
    """Return those of a choice of chat, one for each token; [] if there are none.

    Raises msgspec.DecodeError.
    """
    found = _decode(logprobs)
    return (found.content or []) if found is not None else []


def of_delta(tokens: list[Token]) -> bytes:
    """Return the JSON of `tokens` for a delta."""
    return encode(
        [
            _ShortToken(
                one.token,
                one.logprob,
                [_ShortAlternative(top.token, top.logprob) for top in one.top_logprobs],
            )
            for one in tokens
        ]
    )
