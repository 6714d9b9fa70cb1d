"""What is worked out once of the workers that serve a model, until something about them changes."""

from collections.abc import Container, Sequence
from functools import cached_property

from gateway import Call, Worker, Workers
from gateway_plugins.stickiness.ring import Ring, Rings
from gateway_plugins.stickiness.turns import Turns


class View:
    """`all` that serve a model by name, those that are `fit`, and the `ring` of all.

    The ring has the unfit ones too: their keys come back with them. `weight` is that of all the fit
    together, `mean_weight` that of one of them.
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
        """The same workers, asked quickly who is among them where they are the fit ones."""
        return self._fit if workers is self.fit else workers

    def in_flight(self) -> int:
        """The attempts at all of them together.

        Where they are but some of the workers they are counted only now and then, so that asking
        costs the same among many; the count is then off by an eighth for each of them at most.
        """
        if self._is_whole:
            return self._registry.slots.used
        self._count_in -= 1
        if self._count_in < 0:
            self._counted = sum([worker.in_flight for worker in self.all])
            self._count_in = len(self.all) // 8
        return self._counted


class Views:
    """The views of one gateway's workers; `forget` is to be called when any of them changes."""

    def __init__(self, registry: Workers) -> None:
        self._registry = registry
        self._rings = Rings()
        self._known: dict[int, tuple[object, View]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def of(self, model: str | None) -> View:
        """Of the workers that may get a call for `model`, as the core sees it."""
        serving = self._registry.serving(model if self._registry.mixed else None)
        # The registry gives the same object until a change; it is kept, so its id is not reused.
        known = self._known.get(id(serving))
        if known is not None:
            return known[1]
        view = View(serving.all, serving.fit, self._rings, self._registry)
        self._known[id(serving)] = (serving, view)
        return view

    def of_call(self, call: Call) -> View:
        """Of the workers that may get this call; its model is looked for only if it matters."""
        return self.of(call.model if self._registry.mixed else None)

    def forget(self) -> None:
        self._known.clear()
