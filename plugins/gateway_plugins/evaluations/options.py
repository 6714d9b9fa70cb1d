"""Options of the plugin."""

from typing import Annotated

import msgspec
from msgspec import Meta

MIB = 1024 * 1024
HOUR, DAY = 3_600.0, 86_400.0

Seconds = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(gt=0)]
Text = Annotated[str, Meta(min_length=1)]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which evaluations there are, what their code may use, and how long records are kept.

    `repository`: the folder that has `evals/`. `folder`: that of results, of Python environments,
    and of work under way; None: beside the database. `python`: the interpreter of evaluations, and
    of their environments; None: that of the gateway. `prepare_concurrency`: steps of evaluations
    that run at a time. A step, which is `prepare` or `score`, may take `timeout` seconds and
    `max_memory_bytes`, write `max_output_bytes` in all, and have `max_processes`; `build_timeout`
    and `max_build_bytes` are for the environment. `user`: the user of the machine whose rights
    evaluations have, for a gateway that runs as root; None: that of the gateway. `environment`:
    variables that they get, secrets too. `models`: the cache of the hub's models, in which their
    chat templates are; None: that of the hub's own variables. `max_items`: those of one evaluation.
    `window`: items of an evaluation that are in the queue at a time. `deadline`: within which an
    item has to end once it is queued. `reasoning_max_tokens`: what a generation of a reasoning
    model may have at least. Records are kept for `keep_records`, requests and responses for
    `keep_items`, both from the end on.
    """

    repository: Text = "evaluations"
    folder: Text | None = None
    python: Text | None = None
    user: Text | None = None
    prepare_concurrency: Count = 3
    timeout: Seconds = HOUR
    build_timeout: Seconds = HOUR
    max_memory_bytes: Count = 8_192 * MIB
    max_output_bytes: Count = 512 * MIB
    max_build_bytes: Count = 32_768 * MIB
    max_processes: Count = 256
    environment: dict[str, str] = {}
    models: Text | None = None
    max_items: Count = 200_000
    max_body_bytes: Count = 20 * MIB
    max_unfinished_per_key: Count = 100
    window: Count = 1_000
    deadline: Seconds = 7 * DAY
    reasoning_max_tokens: Count = 8_192
    keep_records: Seconds = 30 * DAY
    keep_items: Seconds = 7 * DAY
