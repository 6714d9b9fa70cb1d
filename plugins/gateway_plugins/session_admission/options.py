"""Options of the plugin, and the part of them that one of several processes has."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from gateway import ConfigError

Count = Annotated[int, Meta(gt=0)]

HEADER = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+(?![\s\S])"
"""Pattern of a header's name."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How many sessions may be hot at each worker, and how long others wait.

    `max_hot_per_worker` applies to each worker whose id is not in `max_hot_by_worker`; null means
    no limit. A session stays hot for `ttl` seconds after its last turn. At most `max_waiting` calls
    wait (0: none), each for at most `max_wait` seconds. `status` is the status of a rejection.
    `final_header` is the header that marks the last turn of a session; null: there is none.
    `patient_scope`: the scope of principals whose calls wait without a time limit, and if
    `max_waiting` calls wait already; null: there is none.
    """

    max_hot_per_worker: Count | None = 16
    max_hot_by_worker: dict[str, Count | None] = {}
    ttl: Annotated[float, Meta(ge=0)] = 60.0
    max_waiting: Annotated[int, Meta(ge=0)] = 1_000
    max_wait: Annotated[float, Meta(gt=0)] = 600.0
    status: Literal[429, 503] = 503
    final_header: Annotated[str, Meta(pattern=HEADER)] | None = "x-dynamo-session-final"
    patient_scope: str | None = "evaluator"

    def limit_of(self, worker_id: str) -> int | None:
        """Return how many sessions may be hot at a worker; None: any number."""
        return self.max_hot_by_worker.get(worker_id, self.max_hot_per_worker)


def part_of(options: Options, index: int, count: int) -> Options:
    """Return the options of the process `index` of `count`; all parts add up to `options`.

    If fewer than `count` calls may wait, one may in each process. Raises ConfigError if a process
    would get no place at some worker.
    """
    if count == 1:
        return options
    _check(options, count)
    waiting = max(_part(options.max_waiting, index, count), min(options.max_waiting, 1))
    return replace(
        options,
        max_hot_per_worker=_limit(options.max_hot_per_worker, index, count),
        max_hot_by_worker={
            name: _limit(most, index, count) for name, most in options.max_hot_by_worker.items()
        },
        max_waiting=waiting,
    )


def _part(most: int, index: int, count: int) -> int:
    return most // count + (index < most % count)


def _limit(most: int | None, index: int, count: int) -> int | None:
    return None if most is None else _part(most, index, count)


def _check(options: Options, count: int) -> None:
    limits = {
        "max_hot_per_worker": options.max_hot_per_worker,
        **{f"max_hot_by_worker.{name}": most for name, most in options.max_hot_by_worker.items()},
    }
    problems = [
        f"{field}: {most} cannot be divided among {count} processes; allow at least {count}, "
        f"or set processes to {most} or less"
        for field, most in limits.items()
        if most is not None and most < count
    ]
    if problems:
        raise ConfigError(*problems)
