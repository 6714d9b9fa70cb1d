"""Realtime calls of late, by their model."""

from time import monotonic

from gateway_plugins.runtime.policy.arrivals import Arrivals


class Activity:
    """The `arrivals` of each model that can be loaded, by its name; None names none."""

    def __init__(self, models: frozenset[str]) -> None:
        self.arrivals: dict[str | None, Arrivals] = {}
        self.set_models(models)

    def set_models(self, models: frozenset[str]) -> None:
        """Replace the models; those that stay keep their arrivals."""
        self.arrivals = {model: self.arrivals.get(model) or Arrivals() for model in models}

    def of(self, model: str) -> Arrivals:
        return self.arrivals[model]

    def note(self, model: str) -> None:
        """A realtime call for the model was admitted; any other name is no activity."""
        arrivals = self.arrivals.get(model)
        if arrivals is not None:
            arrivals.note(monotonic())
