"""Changes made through the admin interface, layered over the configured workers.

The changes apply by worker id and by field, whatever the configured workers are: the start and each
reload apply the same changes to the workers in the file at that time.
"""

from collections.abc import Mapping

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from gateway import config


class Fields(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Settings of a worker that may change while it runs; only the fields that are given change.

    The URL cannot be changed: another URL is another worker.
    """

    model_name: str | UnsetType | None = UNSET
    models: tuple[str, ...] | UnsetType = UNSET
    weight: float | UnsetType = UNSET
    headers: dict[str, str] | UnsetType = UNSET
    forward_authorization: bool | UnsetType = UNSET
    apis: tuple[config.WorkerApi, ...] | UnsetType = UNSET
    refuses_with: tuple[int, ...] | UnsetType = UNSET
    inject: bool | UnsetType = UNSET
    probe: bool | config.Preset | config.WorkerProbe | UnsetType = UNSET

    def given(self) -> dict[str, object]:
        named = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: value for name, value in named.items() if value is not UNSET}

    def over(self, worker: config.Worker) -> config.Worker:
        return replace(worker, **self.given())

    def __repr__(self) -> str:
        # `headers` hold keys, and a repr ends up in logs.
        return f"Fields({', '.join(self.given())})"


class Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The change to the worker with one id.

    `removed`: the configured worker gets no calls. `added`: a worker that was added under an id
    that the configuration lacks, or after the configured worker was removed. `fields` override
    those of the configured worker. While `drained`, the worker gets no calls.
    """

    removed: bool = False
    added: config.Worker | None = None
    fields: Fields = Fields()
    drained: bool = False


NO_CHANGE = Change()


class Overlay(msgspec.Struct, frozen=True):
    """The configured workers, and the changes by worker id in the order in which they began."""

    base: tuple[config.Worker, ...] = ()
    changes: Mapping[str, Change] = {}

    def standing(self) -> list[config.Worker]:
        """Return the current workers: the configured ones in their order, then the added ones."""
        found = {
            worker.worker_id: self.of(worker.worker_id).fields.over(worker)
            for worker in self.base
            if not self.of(worker.worker_id).removed
        }
        for worker_id, change in self.changes.items():
            if change.added is not None:
                found.setdefault(worker_id, change.added)
        return list(found.values())

    def of(self, worker_id: str) -> Change:
        return self.changes.get(worker_id, NO_CHANGE)

    def having(self, worker_id: str, change: Change) -> "Overlay":
        """Return a copy in which `change` replaces the previous change of that worker."""
        changes = {**self.changes, worker_id: change}
        if change == NO_CHANGE:
            del changes[worker_id]
        return replace(self, changes=changes)

    # Each of these returns the Change that puts a worker into the state in the method's name.

    def added(self, worker: config.Worker) -> Change:
        """`worker` must not be among `standing()`."""
        return Change(removed=self.of(worker.worker_id).removed, added=worker)

    def removed(self, worker_id: str) -> Change:
        return Change(removed=True) if self._configures(worker_id) else NO_CHANGE

    def patched(self, worker_id: str, fields: Fields) -> Change:
        change = self.of(worker_id)
        if change.added is not None and (change.removed or not self._configures(worker_id)):
            return replace(change, added=fields.over(change.added))
        return replace(change, fields=replace(change.fields, **fields.given()))

    def drained(self, worker_id: str, *, drained: bool) -> Change:
        return replace(self.of(worker_id), drained=drained)

    def _configures(self, worker_id: str) -> bool:
        return any(worker.worker_id == worker_id for worker in self.base)
