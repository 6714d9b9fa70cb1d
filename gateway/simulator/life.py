"""From the start of a simulated engine's process to its end: a load that takes time, a crash."""

import logging
import os
import signal
import sys
import threading
import time

import msgspec

log = logging.getLogger("gateway.simulator")

STEP = 0.5
"""Seconds between two lines that tell of the progress of a load, at most."""

STEPS = 10

SIGNALS = 128
"""A shell shows a process that a signal ended as this number and that of the signal."""

TOO_LONG = (
    "ValueError: To serve at least one request with the model's max seq len ({length}), (9.00 GiB "
    "KV cache is needed, which is larger than the available KV cache memory (1.00 GiB). Based on "
    "the available memory, the estimated maximum model length is {tokens}. Try increasing "
    "`gpu_memory_utilization` (which also controls CPU memory on the CPU backend) or decreasing "
    "`max_model_len` when initializing the engine."
)


class Life(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a process does beside serving; by default nothing.

    It listens only after `load_time` seconds, during which it logs its progress. It ends `crash`
    seconds after its start, loaded or not (None: it does not), with the status `exit_code`; a
    status above 128 is that of a signal, which then ends it. `last_words` are printed before. If
    `kv_cache_tokens` is less than the context length, it ends as vLLM does after the load, with an
    estimate of the length that would fit.
    """

    load_time: float = 0.0
    crash: float | None = None
    exit_code: int = 1
    last_words: str | None = None
    kv_cache_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.load_time < 0 or (self.crash is not None and self.crash < 0):
            raise ValueError("load_time and crash are seconds and must not be negative")
        if not 0 <= self.exit_code <= SIGNALS + signal.NSIG:
            raise ValueError("exit_code must be a status as a shell shows it")

    def begin(self) -> None:
        """Let the process crash at its time."""
        if self.crash is not None:
            timer = threading.Timer(self.crash, self._crash)
            timer.daemon = True
            timer.start()

    def load(self, max_model_len: int) -> None:
        """Take the time of a load. Ends the process if the context is too long for its memory."""
        pause = min(STEP, self.load_time / STEPS)
        until = time.monotonic() + self.load_time
        while (left := until - time.monotonic()) > 0:
            log.info("loading weights: %d %%", 100 * (1 - left / self.load_time))
            time.sleep(min(pause, left))
        if self.kv_cache_tokens is not None and self.kv_cache_tokens < max_model_len:
            _print(TOO_LONG.format(length=max_model_len, tokens=self.kv_cache_tokens))
            sys.exit(1)

    def _crash(self) -> None:
        if self.last_words is not None:
            _print(self.last_words)
        if self.exit_code > SIGNALS:
            number = self.exit_code - SIGNALS
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
            os.kill(os.getpid(), number)
            time.sleep(1)  # a signal that ends nothing
        os._exit(self.exit_code)


def _print(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
