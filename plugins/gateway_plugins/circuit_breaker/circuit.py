"""One worker's circuit: a record of its attempts, and the decision to eject the worker.

Nothing here waits, logs or uses the running gateway; times are `time.monotonic()` seconds.
"""

import random
from collections import deque
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from gateway import ENGINE_ERROR, Attempt, UpstreamError, UpstreamTimeout

SLICES = 10
"""Parts of the window; each is counted, and forgotten, as a whole."""

OF_THE_CALL = (501, 505)
"""The worker does not support the request, whoever sends it: HAProxy does not count these as
failures either."""

NO_ACCESS = (401, 403)
"""Either the caller's fault or that of the key in the worker's settings."""

Seconds = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(gt=0, le=1)]
Count = Annotated[int, Meta(gt=0)]
State = Literal["closed", "ejected", "half_open"]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When a worker is ejected, for how long, and what brings it back.

    A worker is ejected after `consecutive_failures` in a row, or if at least `error_rate` of the
    calls of the last `window` seconds failed and these were at least `min_calls`; null turns either
    rule off. The `cooldown` in seconds doubles with each ejection up to `max_cooldown`, and varies
    by the share `jitter` of it. Then up to `max_trials` calls at a time try the worker, and
    `required_successes` in a row bring it back. At most the share `max_ejected_share` of the
    workers for the same models is kept out.
    """

    renamed_until: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "0.2": {
            "trials": "max_trials",
            "successes": "required_successes",
            "max_ejected": "max_ejected_share",
        }
    }

    consecutive_failures: Count | None = 5
    error_rate: Share | None = 0.5
    window: Seconds = 30.0
    min_calls: Count = 20
    cooldown: Seconds = 10.0
    max_cooldown: Seconds = 300.0
    jitter: Annotated[float, Meta(ge=0, lt=1)] = 0.1
    max_trials: Count = 1
    required_successes: Count = 2
    max_ejected_share: Annotated[float, Meta(ge=0, le=1)] = 0.5

    def __post_init__(self) -> None:
        if self.consecutive_failures is None and self.error_rate is None:
            raise ValueError("consecutive_failures or error_rate: one of them, else nothing ejects")
        if self.max_cooldown < self.cooldown:
            raise ValueError(
                f"max_cooldown ({self.max_cooldown:g} s) must not be below"
                f" cooldown ({self.cooldown:g} s)"
            )


def fault_of(attempt: Attempt) -> str | None:
    """Return the worker's fault in a few words; None if the worker was not at fault.

    An attempt that ended because the caller left, because `timeouts.total` was over, or because the
    gateway stopped has no error. A worker that falls silent in the middle of a response is at
    fault, and so is one that reports an error of its own under status 200 or inside a stream.
    """
    if isinstance(attempt.error, UpstreamError | UpstreamTimeout):
        return attempt.error.code
    if attempt.status is not None and attempt.status >= 500 and attempt.status not in OF_THE_CALL:
        return f"status {attempt.status}"
    return ENGINE_ERROR if attempt.ending.fault else None


class Window:
    """Number of calls in the last `seconds`, and of failures among them.

    Counted in slices of a tenth, so that memory does not grow with the traffic. `latest` is the
    present slice until the time `until`: its number, its calls and its failures.
    """

    def __init__(self, seconds: float) -> None:
        self._width = seconds / SLICES
        self._slices: deque[list[int]] = deque(maxlen=SLICES)
        self.latest = [0, 0, 0]
        self.until = float("-inf")

    def add(self, now: float, *, failed: bool) -> None:
        if now >= self.until:
            number = int(now / self._width)
            self.until = (number + 1) * self._width
            self.latest = [number, 0, 0]
            self._slices.append(self.latest)
        self.latest[1] += 1
        self.latest[2] += failed

    def counts(self, now: float) -> tuple[int, int]:
        """Return the number of calls, and of failures among them."""
        oldest = int(now / self._width) - SLICES
        fresh = [one for one in self._slices if one[0] > oldest]
        return sum(one[1] for one in fresh), sum(one[2] for one in fresh)

    def clear(self) -> None:
        self._slices.clear()
        self.until = float("-inf")


class Circuit:
    """Closed while calls go through, ejected while none do, half-open while a few may try.

    `since` is the time of the latest change of state; attempts that began earlier do not count.
    `earlier` is the number of those that may still be running. `cooldown` is the latest one, in
    seconds. `spared`: the worker should have been ejected since, but too many others were.
    """

    def __init__(self, options: Options) -> None:
        self.state: State = "closed"
        self.since = 0.0
        self.earlier = 0
        self.cooldown = options.cooldown
        self.spared = False
        self._options = options
        self._in_a_row = 0
        self._level = 0
        self._window = Window(options.window)

    def set_options(self, options: Options) -> None:
        """Replace the options. A running cooldown goes on; calls are counted anew."""
        self._options = options
        self._window = Window(options.window)

    def worked(self, now: float) -> bool:
        """Record a response; return whether it closes a half-open circuit."""
        if self.state == "closed":
            self._in_a_row = 0
            window = self._window
            if now < window.until:
                window.latest[1] += 1
            else:
                window.add(now, failed=False)
            return False
        self._in_a_row += 1
        return self.state == "half_open" and self._in_a_row >= self._options.required_successes

    def failed(self, now: float, fault: str) -> str | None:
        """Record a failure; return why the worker must be ejected now, None if it must not."""
        if self.state == "half_open":
            return f"tried again, and failed ({fault})"
        self._in_a_row += 1
        self._window.add(now, failed=True)
        return self._too_many_in_a_row(fault) or self._too_many(now, fault)

    def _too_many_in_a_row(self, fault: str) -> str | None:
        most = self._options.consecutive_failures
        if most is None or self._in_a_row < most:
            return None
        return f"{self._in_a_row} failures in a row, the latest: {fault}"

    def _too_many(self, now: float, fault: str) -> str | None:
        rate, least = self._options.error_rate, self._options.min_calls
        calls, failures = self._window.counts(now)
        if rate is None or calls < least or failures < rate * calls:
            return None
        seconds = self._options.window
        return f"{failures} of {calls} calls failed in {seconds:g} s, the latest: {fault}"

    def eject(self, now: float) -> None:
        """Eject the worker for `cooldown` seconds.

        As in Envoy's outlier detection, each ejection lengthens the next cooldown, and time in the
        closed state shortens it: by one step for each period as long as the latest cooldown.
        """
        options = self._options
        if self.state == "closed" and self._level:
            self._level = max(0, self._level - int((now - self.since) / self.cooldown))
        # 2.0 ** 1024 overflows; the cooldown reaches max_cooldown long before that.
        plain = min(options.max_cooldown, options.cooldown * 2.0 ** min(self._level, 64))
        self.cooldown = plain * random.uniform(1 - options.jitter, 1 + options.jitter)
        self._level += 1
        self._become("ejected", now)

    def open_half(self, now: float, running: int) -> None:
        """Let trials through; `running` attempts began before."""
        self._become("half_open", now)
        self.earlier = running

    def close(self, now: float) -> None:
        self._become("closed", now)

    def _become(self, state: State, now: float) -> None:
        self.state = state
        self.since = now
        self.spared = False
        self._in_a_row = 0
        self._window.clear()

    def ended_earlier(self) -> None:
        """Note the end of an attempt that began before the latest change of state."""
        self.earlier = max(0, self.earlier - 1)

    def has_room(self, running: int) -> bool:
        """Whether one more trial may begin while the worker has `running` attempts."""
        self.earlier = min(self.earlier, running)
        return running - self.earlier < self._options.max_trials
