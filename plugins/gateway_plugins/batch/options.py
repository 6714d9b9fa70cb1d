"""Options of the plugin."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

MIN_PRIORITY, MAX_PRIORITY = -100, 100
"""Bounds of an item's priority; a larger one runs sooner."""

DAY = 86_400.0

Seconds = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(gt=0)]

MIB = 1024 * 1024


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much may wait, in which order it runs, how often it is tried, and how long it is kept.

    `max_concurrent`: items in flight per worker, over all processes. `min_concurrent`: items in
    flight per model and process however busy the workers are. `engine_priority`: the `priority`
    that the engine gets with each item, None: none; vLLM needs `--scheduling-policy priority` for
    it, where a lower number is sooner. `engine_metrics`: the path at which a worker tells how many
    calls wait within it; None: it is not asked. Times are seconds. An item's priority rises by one
    each `age_step` that it waits, when it is its key's turn, and a key's items of a model come
    first if none of them has begun for `max_wait`. An item that a worker
    may have run is tried `max_attempts` times, with a pause that doubles from `min_pause` to
    `max_pause`. `deadline`: from an item's submission to its end, unless the submission says
    otherwise. Results are kept for `keep_results`, files for `keep_files`, after which they are
    deleted. `lease`: after which items are taken over from a process that runs but does not say so.
    `files`: the folder of files; None: beside the database. `one_model`: a batch file may name only
    one model. `jobs_as`: whether the `input` of a job is sent as one message of the user, or as the
    prompt of a completion.
    """

    max_concurrent: Count = 64
    min_concurrent: Annotated[int, Meta(ge=0)] = 1
    engine_priority: int | None = None
    engine_metrics: Annotated[str, Meta(pattern="^/")] | None = "/metrics"
    age_step: Seconds = 600.0
    max_wait: Seconds = 3_600.0
    max_attempts: Count = 3
    min_pause: Seconds = 1.0
    max_pause: Seconds = 60.0
    deadline: Seconds = DAY
    keep_results: Seconds = 7 * DAY
    keep_files: Seconds = 30 * DAY
    lease: Seconds = 60.0
    max_queued: Count = 1_000_000
    max_queued_per_key: Count = 200_000
    max_body_bytes: Count = 20 * MIB
    max_lines: Count = 50_000
    max_batch_file_bytes: Count = 200 * MIB
    max_file_bytes: Count = 512 * MIB
    max_files_per_key: Count = 10_000
    files: Annotated[str, Meta(min_length=1)] | None = None
    one_model: bool = False
    jobs_as: Literal["chat", "completion"] = "chat"
