"""Values derived from the workers that serve a model, cached until a worker changes."""

from collections.abc import Container, Sequence
from functools import cached_property

from gateway import Call, Worker, Workers
from gateway_plugins.stickiness.ring import Ring, Rings
from gateway_plugins.stickiness.turns import Turns


class View:
    """`all` workers that serve a model, by name, those that are `fit`, and the `ring` of all.

    The ring includes the unfit workers, so that their keys come back with them. `weight` is the sum
    for the fit workers, `mean_weight` their average.
    """

    def __init__(
        self, all_: tuple[Worker, ...], fit: tuple[Worker, ...], rings: Rings, registry: Workers
    ) -> None:
        self.all = sorted(all_, key=lambda worker: worker.id)
        self.fit = fit
        self.weight = sum(worker.weight for worker in fit)
        self.mean_weight = self.weight / len(fit) if fit else 1.0
        self._fit = frozenset(fit)
        self._rings = rings
        self._registry = registry
        self._is_whole = len(all_) == len(registry.all)
        self._counted = 0
        self._count_in = 0

    @cached_property
    def ring(self) -> Ring:
        return self._rings.of(tuple((worker.id, worker.weight) for worker in self.all))

    @cached_property
    def turns(self) -> Turns:
        return Turns(self.fit)

    @cached_property
    def by_id(self) -> dict[str, Worker]:
        return {worker.id: worker for worker in self.all}

    def members(self, workers: Sequence[Worker]) -> Container[Worker]:
        """Return a container of the same workers, with a fast lookup if they are `fit` itself."""
        return self._fit if workers is self.fit else workers

    def in_flight(self) -> int:
        """Attempts in flight at all of these workers together.

        If they are only some of the gateway's workers, they are counted only now and then, so that
        a call costs the same among many workers; the count is then off by at most an eighth for
        each worker.
        """
        if self._is_whole:
            return self._registry.slots.used
        self._count_in -= 1
        if self._count_in < 0:
            self._counted = sum([worker.in_flight for worker in self.all])
            self._count_in = len(self.all) // 8
        return self._counted


class Views:
    """The views of one gateway's workers; call `forget` when any of them changes.

    `whole` is the view for each call, None if it is not known or depends on the call.
    """

    def __init__(self, registry: Workers) -> None:
        self._registry = registry
        self._rings = Rings()
        self._known: dict[int, tuple[object, View]] = {}
        self.whole: View | None = None

    def __len__(self) -> int:
        return len(self._known)

    def of(self, model: str | None) -> View:
        """Return the view of the workers that the core may choose from for `model`."""
        serving = self._registry.serving(model if self._registry.mixed else None)
        # The registry returns the same object until a change; it is kept, so its id is not reused.
        known = self._known.get(id(serving))
        if known is not None:
            return known[1]
        view = View(serving.all, serving.fit, self._rings, self._registry)
        self._known[id(serving)] = (serving, view)
        return view

    def of_call(self, call: Call) -> View:
        """Return the view for a call; its model is read only if workers serve different ones."""
        if self._registry.mixed:
            return self.of(call.model)
        whole = self.whole = self.of(None)
        return whole

    def forget(self) -> None:
        self._known.clear()
        self.whole = None
