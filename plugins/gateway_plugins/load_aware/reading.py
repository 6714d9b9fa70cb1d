"""Reads the load of an engine from its metrics, in the text format of Prometheus."""

import math
import re
from collections.abc import Iterator

import msgspec

RUNNING = (
    b"vllm:num_requests_running",
    b"sglang:num_running_reqs",
    b"llamacpp:requests_processing",
    b"tgi_batch_current_size",
)
WAITING = (
    b"vllm:num_requests_waiting",
    b"sglang:num_queue_reqs",
    b"llamacpp:requests_deferred",
    b"tgi_queue_size",
)
USAGE = (b"vllm:kv_cache_usage_perc", b"vllm:gpu_cache_usage_perc", b"sglang:token_usage")
"""The gauges of vLLM (its former name of the last, too), SGLang, llama.cpp and TGI."""

_line = re.compile(
    rb"^(%b)(?:\{[^\n]*\})?[ \t]+([-+0-9.eE]+)(?=[ \t\r\n]|\Z)"
    % b"|".join(map(re.escape, (*RUNNING, *WAITING, *USAGE))),
    re.MULTILINE,
)


class EngineLoad(msgspec.Struct, frozen=True):
    """What an engine tells of the calls that run, and of those in its own queue.

    `usage` is the share of its KV cache that they have, from 0 to 1; None: it does not tell.
    """

    running: int
    waiting: int
    usage: float | None = None


def load_in(metrics: bytes) -> EngineLoad | None:
    """Return the load that these metrics tell; None if they do not tell how many calls run.

    A server with several engines has a line for each: their calls are added up, and the usage is
    that of the fullest cache.
    """
    found = [*_numbers(metrics)]
    running = [value for name, value in found if name in RUNNING]
    waiting = [value for name, value in found if name in WAITING]
    usage = [min(value, 1.0) for name, value in found if name in USAGE]
    if not running:
        return None
    return EngineLoad(round(sum(running)), round(sum(waiting)), max(usage, default=None))


def _numbers(metrics: bytes) -> Iterator[tuple[bytes, float]]:
    for name, text in _line.findall(metrics):
        try:
            value = float(text)
        except ValueError:  # such as "1.2.3"
            continue
        if 0 <= value < 1e12 and math.isfinite(value):
            yield name, value
