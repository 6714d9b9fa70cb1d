"""Which conversation a request is, as digests: a request that continues another has its digests."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from gateway_plugins.trace_capture.sequences.messages import read_message

DIGEST_SIZE = 16

BEGINNING = (
    "model",
    "tools",
    "functions",
    "documents",
    "chat_template",
    "chat_template_kwargs",
    "reasoning_effort",
    "mm_processor_kwargs",
)
"""Fields of a request, besides its messages, on which the whole prompt depends."""


class History(msgspec.Struct, frozen=True):
    """The messages of a conversation; both lists have one item for each message.

    `digests` are those of the conversation up to and with the message, without its reasoning.
    `thoughts` are digests of the reasoning of the message, empty if it has none.
    """

    digests: list[bytes]
    thoughts: list[bytes]
    roles: list[object]

    def answers(self) -> list[int]:
        """Return the positions of the assistant's messages, the last one first."""
        places = range(len(self.roles) - 1, -1, -1)
        return [place for place in places if self.roles[place] == "assistant"]


def history_of(request: Mapping[str, Any], *more: object) -> History:
    """Return the history of a chat request with `more` messages after its own. Never raises."""
    given = request.get("messages")
    messages = [*given, *more] if isinstance(given, list) else list(more)
    hasher = hashlib.blake2b(_bytes(_beginning(request)), digest_size=DIGEST_SIZE)
    found = History([], [], [])
    for message in map(read_message, messages):
        hasher.update(_digest(_bytes(message.visible())))
        found.digests.append(hasher.copy().digest())
        thought = message.reasoning
        found.thoughts.append(_digest(thought.encode(errors="replace")) if thought else b"")
        found.roles.append(message.role)
    return found


def agrees(sent: Sequence[bytes], known: Sequence[bytes]) -> bool:
    """Whether thoughts that were sent back are those that are known; any may be left out.

    Most clients cannot send reasoning back at all, so that it is lost says nothing.
    """
    both = zip(sent, known, strict=False)
    return len(sent) >= len(known) and all(not one or one == other for one, other in both)


def _beginning(request: Mapping[str, Any]) -> list[object]:
    without_tools = request.get("tool_choice") == "none"
    return [without_tools, *[request.get(name) or None for name in BEGINNING]]


def _bytes(value: object) -> bytes:
    try:
        return json.dumps(value, sort_keys=True).encode()
    except (TypeError, ValueError, RecursionError):
        return b"?"  # nothing that a caller sends is so; it equals nothing that was stored


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=DIGEST_SIZE).digest()
