"""What a runtime is doing."""

import msgspec

from gateway_plugins.runtime.policy.view import Phase


class State(msgspec.Struct, frozen=True, kw_only=True):
    """A phase with its model, since `since` (`time.monotonic()`).

    `model` is loaded, or being loaded, or failed to load; it leaves while the runtime is draining,
    and `next` is to come then. `generation` is that of its engine. `reason` is why it failed.
    """

    phase: Phase = "idle"
    model: str | None = None
    since: float
    next: str | None = None
    generation: int = 0
    for_batch: bool = False
    reason: str | None = None

    @property
    def coming(self) -> str | None:
        """The model that is there and stays, or is to come."""
        return {"draining": self.next, "failed": None}.get(self.phase, self.model)

    def __str__(self) -> str:
        if self.phase == "draining":
            return f"draining({self.model} -> {self.next})"
        return self.phase if self.model is None else f"{self.phase}({self.model})"
