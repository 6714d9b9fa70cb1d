"""Errors of calls whose model is not there, with the members that scripts of old test for."""

import msgspec

from gateway import CallError, NoWorker, retry_after


class Downloaded(msgspec.Struct, frozen=True):
    """A download: bytes that are there, and of the whole model, 0 if the hub has not told them."""

    done_bytes: int
    total_bytes: int


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a model: the `phase` of its runtime for `elapsed` seconds.

    `remaining` is the estimate of the seconds until the model is there. `reason` is why its latest
    load has failed, None if it has not. `download` is that of the model, None: there is none now.
    """

    phase: str
    elapsed: float
    remaining: float
    reason: str | None = None
    download: Downloaded | None = None


class _Members(msgspec.Struct, kw_only=True):
    """The members beside the envelope. Times are seconds."""

    error: msgspec.Raw
    type: str
    retry_after: int
    estimated_ready_in_seconds: int
    phase: str
    elapsed_s: float
    reason: str | None
    download: Downloaded | None


class NotLoaded(CallError):
    """503: the call has waited in vain, or may not wait, for its model."""

    status = 503
    code = "model_cold_start"
    type = "overloaded_error"

    def __init__(self, message: str, progress: Progress) -> None:
        self.seconds = retry_after(progress.remaining)
        self.progress = progress
        super().__init__(message, headers=((b"retry-after", b"%d" % self.seconds),))

    def body(self) -> bytes:
        progress = self.progress
        envelope = super().body()
        members = _Members(
            error=msgspec.json.decode(envelope, type=dict[str, msgspec.Raw])["error"],
            type=self.code,
            retry_after=self.seconds,
            estimated_ready_in_seconds=round(progress.remaining) if progress.remaining < 1e9 else 0,
            phase=progress.phase,
            elapsed_s=round(progress.elapsed, 1),
            reason=progress.reason,
            download=progress.download,
        )
        return msgspec.json.encode(members)


class ModelColdStart(NotLoaded):
    """The model is not loaded yet."""


class ModelLoadFailed(NotLoaded):
    """The latest load of the model has failed, and the next attempt is too far away."""

    code = "model_load_failed"


class ModelSwitched(CallError):
    """Ends a call that still ran when its model had to make room, after `drain_realtime`."""

    status = 503
    code = "model_switched"
    type = "overloaded_error"

    def __init__(self) -> None:
        super().__init__(
            "another model got the runtime, and this call took longer than may be waited for",
            headers=((b"retry-after", b"1"),),
        )


class GatewayDrains(NoWorker):
    """Ends the wait of a call when the gateway shuts down."""

    code = "draining"

    def __init__(self) -> None:
        super().__init__("the gateway is shutting down")
