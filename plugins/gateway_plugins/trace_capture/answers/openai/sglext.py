"""The token ids that SGLang adds to chats at a place of their own.

With `return_input_ids_in_sglext` and `return_output_ids_in_sglext`, a plain response and the last
event of a stream have `sglext`: the ids of the prompt, and those sampled for each choice. SGLang
rejects `return_token_ids` in streams of chats.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from gateway_plugins.trace_capture.answers.assembled import UNREADABLE, Part
from gateway_plugins.trace_capture.answers.openai.structs import TokenId
from gateway_plugins.trace_capture.codec import pack_ids


class _Extension(msgspec.Struct):
    input_ids: list[TokenId] | None = None
    output_ids: list[list[TokenId]] | None = None


def add_ids(parts: Sequence[Part], extension: Any) -> None:
    """Give the parts the ids of `extension` that they lack; none if it cannot be read."""
    if extension is None:
        return
    try:
        found = msgspec.convert(extension, _Extension)
    except UNREADABLE:
        return
    for part in parts:
        if found.input_ids and not part.packed_prompt:
            part.packed_prompt = pack_ids(found.input_ids)
        if found.output_ids and not part.packed_ids and part.index < len(found.output_ids):
            part.packed_ids = pack_ids(found.output_ids[part.index])
