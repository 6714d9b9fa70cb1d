"""Options of the plugin."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(gt=0)]


class QueueOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """At most `max_length` calls wait (0: none), each for at most `max_wait` seconds."""

    renamed_until: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "0.2": {"length": "max_length", "wait": "max_wait"}
    }

    max_length: Annotated[int, Meta(ge=0)] = 1_000
    max_wait: Annotated[float, Meta(gt=0)] = 30.0


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Limits on the calls in flight, and the treatment of calls above the limits.

    `max_in_flight_per_worker` applies to each worker whose id has no limit of its own in
    `max_in_flight_by_worker`, `max_in_flight` to all workers together; null means no limit.
    `status` is the status of a rejection. `no_worker`: whether calls `wait` while no worker is fit,
    or are rejected (`refuse`). `priority_header` holds an integer, higher first; it is read for
    principals with the scope `priority_scope`, for principals whose ids are in `priority_ids`, and,
    if `priority_for_all` is set, for everybody. `patient_scope`: the scope of principals whose
    calls wait without a time limit, and in a full queue too; null: there is none.
    """

    renamed_until: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "0.2": {"workers": "max_in_flight_by_worker"}
    }

    max_in_flight_per_worker: Count | None = 256
    max_in_flight_by_worker: dict[str, Count | None] = {}
    max_in_flight: Count | None = None
    queue: QueueOptions = QueueOptions()
    status: Literal[429, 503] = 429
    no_worker: Literal["wait", "refuse"] = "wait"
    priority_header: str = "x-priority"
    priority_scope: str | None = None
    priority_ids: list[str] = []
    priority_for_all: bool = False
    patient_scope: str | None = "evaluator"

    def __post_init__(self) -> None:
        if not self.priority_header.isascii() or not self.priority_header.strip():
            raise ValueError("priority_header must be the name of a header, such as x-priority")
