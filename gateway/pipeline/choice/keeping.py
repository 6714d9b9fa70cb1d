"""Calls about an object that one worker keeps go to that worker: state does not move.

An object belongs to the principal that made it, as far as that is known.
"""

from collections.abc import Sequence

from gateway.calls.call import Call
from gateway.calls.state import StateKey
from gateway.errors import NotFound, NoWorker
from gateway.fleet.keepers import Keepers, Kept, Learner
from gateway.fleet.registry import Workers
from gateway.fleet.worker import Worker
from gateway.wire.apis.stored_objects import collection_of, object_of, references_of

KEPT = StateKey[tuple[str, Kept] | None]("gateway.kept")
"""The object that the call is about, and who keeps it, once this has been looked for."""

UNKNOWN = StateKey[bool]("gateway.not_kept")
"""Set if the call is about no object that anybody keeps."""


def learners(call: Call, registry: Workers) -> Sequence[Learner]:
    """Return an observer of the response, if the call makes an object and there is a choice."""
    collection = collection_of(call.path) if call.method == "POST" else None
    if collection is None or collection != call.path or len(registry.all) < 2:
        return ()
    owner = call.principal.id if call.principal is not None else None
    return (Learner(registry.keepers, collection, owner, lambda: call.worker),)


def is_kept(call: Call) -> bool:
    """Whether one worker keeps what the call is about, as far as `keeping` was asked."""
    return call.state.get(KEPT) is not None


def names_object(call: Call) -> bool:
    """Whether a call whose body was read whole is about an object, whoever keeps it."""
    if collection_of(call.path) is None:
        return False
    return object_of(call.path) is not None or bool(references_of(call.body.data or b""))


async def keeping(
    call: Call, registry: Workers, able: Sequence[Worker], workers: Sequence[Worker]
) -> Sequence[Worker]:
    """Return the one of `workers` that keeps what the call is about; all if none of `able` does.

    Raises NotFound if another principal made the object, NoWorker if its worker is not in
    `workers`.
    """
    found = await _kept(call, registry.keepers, workers)
    if found is None:
        return workers
    name, kept = found
    caller = call.principal.id if call.principal is not None else None
    if None not in (kept.owner, caller) and kept.owner != caller:
        raise NotFound(f"there is no {name}")
    keeper = next((worker for worker in able if worker.id == kept.worker_id), None)
    if keeper is None:
        return workers  # it has gone for good, or does not serve the model
    if keeper not in workers:
        raise NoWorker(
            f"the worker that keeps {name} cannot take this call now",
            retry_after=registry.seconds_until(keeper),
        )
    return (keeper,)


async def _kept(call: Call, keepers: Keepers, workers: Sequence[Worker]) -> tuple[str, Kept] | None:
    """Look once for each call, as a worker may be chosen many times."""
    if call.state.get(UNKNOWN):
        return None
    found = call.state.get(KEPT)
    if found is None:
        found = await _look(call, keepers, workers)
        call.state[KEPT] = found
        call.state[UNKNOWN] = found is None
    return found


async def _look(call: Call, keepers: Keepers, workers: Sequence[Worker]) -> tuple[str, Kept] | None:
    for name in await _named(call):
        kept = await keepers.find(name, workers)
        if kept is not None:
            return name, kept
    return None


async def _named(call: Call) -> Sequence[str]:
    """Return the objects that a call is about: that of its path, else those of its body."""
    if collection_of(call.path) is None:
        return ()
    name = object_of(call.path)
    if name is not None:
        return (name,)
    return references_of(await call.body.read()) if call.method == "POST" else ()
