"""Divides the limits among several processes: slots, and places in the queue."""

from msgspec.structs import replace

from gateway import ConfigError
from gateway_plugins.backpressure.options import Options


def part_of(options: Options, index: int, count: int) -> Options:
    """Return the options of the process `index` of `count`; all parts add up to `options`.

    A queue that is shorter than `count` still has one place in each process. Raises ConfigError if
    a process would get no slot of some worker or of all workers together.
    """
    if count == 1:
        return options
    _check(options, count)
    queue = options.queue
    length = max(_part(queue.max_length, index, count), min(queue.max_length, 1))
    return replace(
        options,
        max_in_flight_per_worker=_limit(options.max_in_flight_per_worker, index, count),
        max_in_flight_by_worker={
            name: _limit(most, index, count)
            for name, most in options.max_in_flight_by_worker.items()
        },
        max_in_flight=_limit(options.max_in_flight, index, count),
        queue=replace(queue, max_length=length),
    )


def _part(most: int, index: int, count: int) -> int:
    return most // count + (index < most % count)


def _limit(most: int | None, index: int, count: int) -> int | None:
    return None if most is None else _part(most, index, count)


def _check(options: Options, count: int) -> None:
    limits = {
        "max_in_flight_per_worker": options.max_in_flight_per_worker,
        "max_in_flight": options.max_in_flight,
        **{
            f"max_in_flight_by_worker.{name}": most
            for name, most in options.max_in_flight_by_worker.items()
        },
    }
    problems = [
        f"{field}: {most} cannot be divided among {count} processes; allow at least {count}, "
        f"or set processes to {most} or less"
        for field, most in limits.items()
        if most is not None and most < count
    ]
    if problems:
        raise ConfigError(*problems)
