"""Why an engine is not there, told from its exit and the last lines of its log.

The words are those of vLLM 0.32, SGLang, transformers and huggingface_hub, some of which say the
same in several ways over their versions.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import msgspec

from gateway_plugins.runtime.drivers.driver import Exit

Reason = Literal[
    "runtime_oom",
    "model_incompatible",
    "runtime_segfault",
    "runtime_crashed",
    "access_denied",
    "auth_required",
    "model_not_found",
    "disk_full",
    "download_failed",
    "runtime_timeout",
    "runtime_start_failed",
    "runtime_start_exception",
    "runtime_not_ready",
]

Flag = Literal["model_oom", "model_incompatible", "model_failure"]

HOUR = 3_600.0

KEPT: dict[Reason, float] = {
    "runtime_oom": 24 * HOUR,
    "model_incompatible": 30 * 24 * HOUR,
    "runtime_segfault": 6 * HOUR,
    "runtime_crashed": HOUR,
    "access_denied": math.inf,
    "auth_required": math.inf,
    "model_not_found": math.inf,
}

LASTING: frozenset[Reason] = frozenset(
    ("model_incompatible", "access_denied", "auth_required", "model_not_found")
)
"""Reasons of which time alone does not rid a model: no work waits for it."""

FLAGS: dict[Reason, Flag] = {
    "runtime_oom": "model_oom",
    "model_incompatible": "model_incompatible",
    "runtime_segfault": "model_failure",
    "runtime_crashed": "model_failure",
    "access_denied": "model_failure",
    "auth_required": "model_failure",
    "model_not_found": "model_failure",
}

SEGFAULTS = (139, -11)

MARGIN = 4_096
"""Tokens less than the maximum length that vLLM estimates, for the one restart after that."""

SHORTEST = 1_024

LONGEST_TEXT = 500

LONGEST_SEARCHED = 1_000
"""Characters of a line in which words are searched: the event loop waits meanwhile."""


class Failure(msgspec.Struct, frozen=True):
    """Why an engine is not there; `text` says more, for people, without secrets.

    `kept` is for how many seconds it is known of the model (infinite: until the model is submitted
    anew, or is on the disk), None if it says nothing of the model.
    """

    reason: Reason
    kept: float | None
    text: str

    @property
    def flag(self) -> Flag | None:
        """What is known of the model; a new submission clears "model_failure" only."""
        return FLAGS.get(self.reason)


def failure(reason: Reason, text: str) -> Failure:
    return Failure(reason, KEPT.get(reason), text[:LONGEST_TEXT])


def failure_of(ended: Exit, tail: Sequence[str]) -> Failure:
    """Return why an engine ended, while it was loaded or later; `tail` are its last lines."""
    status = "the engine ended" if ended.code is None else f"the engine ended with {ended.code}"
    if ended.oom_killed:
        return failure("runtime_oom", f"{status}: the kernel had no memory left")
    begins = [line[:LONGEST_SEARCHED] for line in reversed(tail)]
    for reason, words in _WORDS:
        line = next((line for line in begins if words.search(line)), None)
        if line is not None:
            return failure(reason, f"{status}: {line.strip()}")
    if ended.code in SEGFAULTS:
        return failure("runtime_segfault", f"{status}: a segmentation fault")
    return failure("runtime_crashed", f"{status}: {_last_error(tail)}")


def hint(tail: Iterable[str]) -> int | None:
    """Return the maximum length, in tokens, with which to start once more.

    None if vLLM did not say which length its KV cache would hold.
    """
    found = [int(match[1]) for line in tail for match in _ESTIMATE.finditer(line)]
    return max(SHORTEST, found[-1] - MARGIN) if found else None


def _last_error(tail: Sequence[str]) -> str:
    """The last line that names an exception, else the last line."""
    named = (line for line in reversed(tail) if _EXCEPTION.search(line))
    return next(_strip(named), next(_strip(reversed(tail)), "its log is empty"))


def _strip(lines: Iterable[str]) -> Iterator[str]:
    return (line.strip() for line in lines)


_EXCEPTION = re.compile(r"(^|[\s.])[A-Za-z]*(Error|Exception): ")

_ESTIMATE = re.compile(r"estimated maximum model length is (\d{1,12})\b")

# A name of an exception alone is not enough where engines warn of what they try next.
_MEMORY = """
    torch\\.(cuda\\.)?OutOfMemoryError
    (CUDA|HIP|XPU|NPU) out of memory
    CUDA error: out of memory
    CUBLAS_STATUS_ALLOC_FAILED
    No available memory for the cache blocks
    is larger than the available KV cache memory
    is less than desired GPU memory utilization
    Not enough memory\\. Please try to increase --mem-fraction-static
    Not enough memory to allocate KV cache
    DefaultCPUAllocator: (can't allocate memory|not enough memory)
    std::bad_alloc
    \\[Errno 12\\] Cannot allocate memory
    ^(.*\\s)?MemoryError(:|$)
"""

_UNSUPPORTED = """
    Model architectures? .* (are|is) not supported (for now|in-tree anymore)
    Model architecture .* is not supported anymore
    Unsupported architectures:
    implementation .*is not compatible with (vLLM|SGLang)
    has model type .* but Transformers does not recognize this architecture
    No model architectures are specified
"""

# 401: no token, or none that is known. 403: this token may not.
_UNKNOWN_CALLER = """
    You must have access to it and be authenticated to access it
    401 Client Error
    Invalid credentials in Authorization header
    Invalid username or password
    is gated\\. You must be authenticated
"""

_DENIED = """
    is restricted and you are not in the authorized list
    is awaiting a review from the repo authors
    Access to this resource is disabled
    Cannot access gated repo
    trying to access a gated repo
    is a gated repository
    403 Forbidden:
    Repository Not Found for url
    is not a local folder and is not a valid model identifier
    is not a local folder or a valid repository name
"""

_SEGFAULT = """
    Fatal Python error: Segmentation fault
    Segfault encountered
    exit code:? -11\\b
"""


def _words(text: str) -> re.Pattern[str]:
    lines = [line.removeprefix("    ") for line in text.split("\n") if line.strip()]
    return re.compile("|".join(f"(?:{line})" for line in lines), re.IGNORECASE)


_WORDS: tuple[tuple[Reason, re.Pattern[str]], ...] = (
    ("runtime_oom", _words(_MEMORY)),
    ("model_incompatible", _words(_UNSUPPORTED)),
    ("auth_required", _words(_UNKNOWN_CALLER)),
    ("access_denied", _words(_DENIED)),
    ("runtime_segfault", _words(_SEGFAULT)),
)
