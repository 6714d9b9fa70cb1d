"""The beginning of a request's prompt as blocks of text, without reading what it says.

The JSON of the messages of a turn begins as that of the turn before, so blocks of its bytes tell
how far two prompts are equal. What stands before the messages in a prompt, tools and instructions,
counts as the first block.
"""

from collections.abc import Sequence

import msgspec
from msgspec import Raw

from gateway import NOT_JSON, Fields

BEFORE = ("tools", "system", "instructions")
"""Fields whose text stands before the messages in a prompt."""

PROMPTS = ("messages", "prompt", "input", "prompts")
"""Fields with the prompt: chat and Messages, completions, Responses, TRL's /generate/."""

NOTHING = Raw(b"")


class _Request(msgspec.Struct):
    tools: Raw = NOTHING
    system: Raw = NOTHING
    instructions: Raw = NOTHING
    messages: Raw = NOTHING
    prompt: Raw = NOTHING
    input: Raw = NOTHING
    prompts: Raw = NOTHING


_read = msgspec.json.Decoder(_Request).decode


def path_of(
    data: bytes | None, fields: Fields | None, model: str | None, size: int, most: int
) -> Sequence[int]:
    """Return the path of a request's prompt: at most `most` hashes of blocks of `size` bytes.

    `data` is the body, `fields` are those that a kernel has read of it. The path is empty if the
    request has no prompt that is longer than a block. Prompts for two models, and prompts with
    other tools or instructions, have no hash in common.
    """
    if not data:
        return ()
    texts = _texts(data) if fields is None else _texts_of(data, fields)
    if texts is None:
        return ()
    before, prompt = texts
    return path_in(prompt, hash((model, before)), size, most)


def path_in(prompt: bytes, root: int, size: int, most: int) -> Sequence[int]:
    """Return the hashes of the full blocks of a text, each with all before it and with `root`."""
    path = []
    node = root
    for end in range(size, min(len(prompt), size * most) + 1, size):
        node = hash((node, prompt[end - size : end]))
        path.append(node)
    return path


def _texts(data: bytes) -> tuple[tuple[bytes, ...], bytes] | None:
    try:
        request = _read(data)
    except NOT_JSON:
        return None
    before = tuple(bytes(getattr(request, name)) for name in BEFORE)
    prompt = next((raw for name in PROMPTS if (raw := getattr(request, name))), None)
    return None if prompt is None else (before, bytes(prompt))


def _texts_of(data: bytes, fields: Fields) -> tuple[tuple[bytes, ...], bytes] | None:
    name = next((name for name in PROMPTS if name in fields), None)
    if name is None:
        return None
    before = tuple(_text(data, fields, name) for name in BEFORE)
    return before, _text(data, fields, name)


def _text(data: bytes, fields: Fields, name: str) -> bytes:
    """Return a field's JSON, as it stands in the body; empty if it is a number or null."""
    value = fields.get(name)
    if type(value) is tuple:
        return data[value[0] : value[1]]
    return f'"{value}"'.encode() if type(value) is str else b""
