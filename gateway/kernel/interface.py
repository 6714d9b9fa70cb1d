"""What a kernel has, the native one and the one in Python alike; None stands for "left to you"."""

from typing import Any, Protocol

ReadPart = tuple[int, bytes, bytes, bytes, bytes | None, bytes, str | None, list[Any], bool]
"""Index, prompt token ids and token ids (int32), logprobs (float32, NaN for null), the tokens'
texts as MessagePack, the JSON of what is in none of these, finish reason, doubts, and whether all
logprobs are logarithms of probabilities.
"""

ReadAnswer = tuple[
    bytes,
    str,
    str,
    tuple[ReadPart, ...],
    bytes | None,
    int | None,
    int | None,
    bytes | None,
    bool,
    int,
    bool,
]
"""Skeleton, id, model, parts, usage as JSON, tokens of prompt and completion, the fields of the
answer that may have a version of weights as JSON, whether a stream has ended, the number of its
events, and whether the two numbers of tokens are sure.
"""


class Functions(Protocol):
    """The functions and types of a kernel: the module `reference` or the module `_native`.

    `BUILT` says how it was made, `SOURCES` from which sources: see `digest` in `build.py`.
    """

    BUILT: str
    SOURCES: str

    def read_answer(self, body: bytes, chat: bool, streamed: bool, /) -> ReadAnswer | None:
        """Take apart an answer of chat or, if not `chat`, of completions, without the GIL."""
