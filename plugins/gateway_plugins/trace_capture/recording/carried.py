"""What a call with token-in/token-out has for its record, besides what went to the worker."""

from typing import Any

import msgspec

from gateway import StateKey


class Carried(msgspec.Struct):
    """The chat request, facts for the trace's metadata, and the messages of the choices.

    `request` is None if the call was carried as chat after all. `messages` are in the order of the
    choices; empty until the response is whole.
    """

    facts: dict[str, Any]
    request: bytes | None = None
    messages: list[dict[str, Any]] = []


CARRIED = StateKey[Carried]("trace_capture.tito")
