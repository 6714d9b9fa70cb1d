"""What the admin interface changed of the workers, over what the configuration says of them.

The changes lie over the configuration's workers, id by id and field by field, wherever these come
from: the start and each reload put the same changes over what the file says then.
"""

from collections.abc import Mapping

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from gateway import config


class Fields(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The settings of a worker that may change while it runs; only those given change.

    Where it is, is not among them: a server in another place is another worker.
    """

    model_name: str | UnsetType | None = UNSET
    models: tuple[str, ...] | UnsetType = UNSET
    weight: float | UnsetType = UNSET
    headers: dict[str, str] | UnsetType = UNSET
    forward_authorization: bool | UnsetType = UNSET
    inject: bool | UnsetType = UNSET
    probe: bool | UnsetType = UNSET

    def given(self) -> dict[str, object]:
        named = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: value for name, value in named.items() if value is not UNSET}

    def over(self, worker: config.Worker) -> config.Worker:
        return replace(worker, **self.given())

    def __repr__(self) -> str:
        # Its headers hold keys, and a repr ends up in logs.
        return f"Fields({', '.join(self.given())})"


class Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What was changed of the worker of one id.

    `removed`: the configuration's takes no calls. `added`: the one that was put there where the
    configuration has none, or a removed one. `fields` lie over the configuration's; while
    `drained`, it is given no calls.
    """

    removed: bool = False
    added: config.Worker | None = None
    fields: Fields = Fields()
    drained: bool = False


NO_CHANGE = Change()


class Overlay(msgspec.Struct, frozen=True):
    """The configuration's workers, and the changes by id, in the order in which they were begun."""

    base: tuple[config.Worker, ...] = ()
    changes: Mapping[str, Change] = {}

    def standing(self) -> list[config.Worker]:
        """The workers that there are: the configuration's in their order, then those added."""
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
        """This one with `change` in the place of what was changed of that worker before."""
        changes = {**self.changes, worker_id: change}
        if change == NO_CHANGE:
            del changes[worker_id]
        return replace(self, changes=changes)

    # These give the Change after which a worker is as their names say.

    def added(self, worker: config.Worker) -> Change:
        """`worker` must not be among those standing."""
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
