"""The plugin's options."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(gt=0)]


class QueueOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """At most `length` calls wait (0: none does), each for at most `wait` seconds."""

    length: Annotated[int, Meta(ge=0)] = 1_000
    wait: Annotated[float, Meta(gt=0)] = 30.0


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How many calls the workers get at a time, and what becomes of the others.

    `max_in_flight_per_worker` holds for each worker that `workers` does not give a limit of its own
    by its id, `max_in_flight` for all of them together; null is no limit. `status` is that of a
    refusal. `no_worker`: whether calls `wait` while no worker is fit, or are refused (`refuse`).
    `priority_header` holds an integer, higher first, for principals of the scope `priority_scope`,
    for those whose ids are in `priority_ids`, and with `priority_for_all` for everybody.
    """

    max_in_flight_per_worker: Count | None = 256
    workers: dict[str, Count | None] = {}
    max_in_flight: Count | None = None
    queue: QueueOptions = QueueOptions()
    status: Literal[429, 503] = 429
    no_worker: Literal["wait", "refuse"] = "wait"
    priority_header: str = "x-priority"
    priority_scope: str | None = None
    priority_ids: list[str] = []
    priority_for_all: bool = False

    def __post_init__(self) -> None:
        if not self.priority_header.isascii() or not self.priority_header.strip():
            raise ValueError("priority_header must be the name of a header, such as x-priority")
