"""Options of the plugin."""

from typing import Annotated

import msgspec
from msgspec import Meta

Seconds = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(gt=0)]

DAY = 86_400.0
MIB = 1024**2


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is kept, how long, and how much of it.

    `store_by_default`: a response is kept if its request does not say `store`, as at OpenAI. What
    was not used for `keep` seconds is deleted, and so are the oldest of a key that has more than
    `max_responses` responses, or more than `max_conversations` conversations. A conversation has at
    most `max_items` items, and so has what a response follows. At most `max_background` responses
    of a key run in the background at a time; the events of one that streams have at most
    `max_event_bytes` bytes.
    """

    store_by_default: bool = True
    keep: Seconds = 30 * DAY
    max_responses: Count = 10_000
    max_conversations: Count = 10_000
    max_items: Count = 10_000
    max_background: Count = 100
    max_event_bytes: Count = 64 * MIB
