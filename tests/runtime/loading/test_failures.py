"""The table of reasons, with messages that vLLM, SGLang and the hub's library print."""

import math

import pytest
from gateway_plugins.runtime.drivers.driver import Exit
from gateway_plugins.runtime.loading.failures import (
    FLAGS,
    KEPT,
    Failure,
    Reason,
    failure,
    failure_of,
    hint,
)
from hypothesis import given
from hypothesis import strategies as st

CRASH = Exit(1)
LATER = [
    "(APIServer pid=1) Traceback (most recent call last):",
    (
        "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. "
        "Failed core proc(s): {}"
    ),
]

MEMORY = [
    (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total "
        "capacity of 79.10 GiB of which 98.00 MiB is free."
    ),
    (
        "(EngineCore pid=7) RuntimeError: CUDA out of memory occurred when warming up sampler with "
        "256 dummy requests. Please try lowering `max_num_seqs` or `gpu_memory_utilization`"
    ),
    "RuntimeError: CUDA error: out of memory",
    (
        "ValueError: No available memory for the cache blocks. Try increasing "
        "`gpu_memory_utilization` when initializing the engine"
    ),
    (
        "ValueError: To serve at least one request with the model's max seq len (40960), (4.38 GiB "
        "KV cache is needed, which is larger than the available KV cache memory (0.50 GiB)."
    ),
    (
        "ValueError: Free memory on device cuda:0 (1.00/79.10 GiB) on startup is less than desired "
        "GPU memory utilization (0.9, 71.19 GiB)."
    ),
    "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.",
    (
        "RuntimeError: [enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't "
        "allocate memory: you tried to allocate 137438953472 bytes."
    ),
    "MemoryError",
    "OSError: [Errno 12] Cannot allocate memory",
    "terminate called after throwing an instance of 'std::bad_alloc'",
]

UNSUPPORTED = [
    (
        "  Value error, Model architectures ['NewForCausalLM'] are not supported for now. "
        "Supported architectures: dict_keys(['A'])"
    ),
    (
        "ValueError: Model architecture OldForCausalLM was supported in vLLM until v0.10.0, and is "
        "not supported anymore. Please use an older version"
    ),
    "ValueError: Model architecture BartModel is not supported in-tree anymore. Please install",
    "ValueError: The Transformers implementation of 'NewModel' is not compatible with vLLM.",
    (
        "ValueError: NewForCausalLM has no SGlang implementation and the Transformers "
        "implementation is not compatible with SGLang."
    ),
    (
        "ValueError: The checkpoint you are trying to load has model type `new` but Transformers "
        "does not recognize this architecture. This could be because"
    ),
    "ValueError: No model architectures are specified",
]

UNKNOWN = [
    (
        "Access to model org/gated is restricted. You must have access to it and be authenticated "
        "to access it. Please log in."
    ),
    "huggingface_hub.errors.RepositoryNotFoundError: 401 Client Error. (Request ID: Root=1-6951)",
    "OSError: 401 Client Error. Invalid credentials in Authorization header",
    "Invalid username or password.",
]

DENIED = [
    (
        "Access to model org/gated is restricted and you are not in the authorized list. Visit "
        "https://huggingface.co/org/gated to ask for access."
    ),
    "Your request to access model org/gated is awaiting a review from the repo authors.",
    (
        "403 Forbidden: Please enable access to public gated repositories in your fine-grained "
        "token settings to view this repository.."
    ),
    "Access to this resource is disabled.",
    (
        "OSError: org/none is not a local folder and is not a valid model identifier listed on "
        "'https://huggingface.co/models'"
    ),
    "Repository Not Found for url: https://huggingface.co/api/models/org/none.",
]

SEGFAULT = [
    "Fatal Python error: Segmentation fault",
    "!!!!!!! Segfault encountered !!!!!!!",
    "Worker proc VllmWorker-1 died unexpectedly (exit code: -11), shutting down executor.",
]


def cases(reason: Reason, lines: list[str]) -> list[tuple[Reason, str]]:
    return [(reason, line) for line in lines]


@pytest.mark.parametrize(
    ("reason", "line"),
    [
        *cases("runtime_oom", MEMORY),
        *cases("model_incompatible", UNSUPPORTED),
        *cases("auth_required", UNKNOWN),
        *cases("access_denied", DENIED),
        *cases("runtime_segfault", SEGFAULT),
    ],
)
def test_the_log_tells_the_reason(reason: Reason, line: str) -> None:
    found = failure_of(CRASH, ["INFO loading", line, *LATER])
    assert found.reason == reason
    assert line.strip()[:400] in found.text


@pytest.mark.parametrize(
    "line",
    [
        (
            "INFO If out-of-memory error occurs during cudagraph capture, consider decreasing "
            "`gpu_memory_utilization` or switching to eager mode."
        ),
        (
            "WARNING NewForCausalLM has no vLLM implementation, falling back to Transformers "
            "implementation. Some features may not be supported"
        ),
        "INFO torch_compile is not supported for this model",
        "INFO OutOfMemoryError is caught and tried again with a smaller batch",
    ],
)
def test_words_that_engines_print_in_peace_are_no_reason(line: str) -> None:
    assert failure_of(CRASH, [line, *LATER]).reason == "runtime_crashed"


@pytest.mark.parametrize(
    ("ended", "reason"),
    [
        (Exit(137, oom_killed=True), "runtime_oom"),
        (Exit(137), "runtime_crashed"),
        (Exit(139), "runtime_segfault"),
        (Exit(-11), "runtime_segfault"),
        (Exit(0), "runtime_crashed"),
        (Exit(None), "runtime_crashed"),
    ],
)
def test_the_exit_tells_the_reason(ended: Exit, reason: Reason) -> None:
    found = failure_of(ended, ["INFO loading"])
    assert found.reason == reason
    assert found.text.startswith("the engine ended")


def test_reasons_are_kept_as_long_as_the_contract_says() -> None:
    hours = {reason: seconds / 3_600 for reason, seconds in KEPT.items()}
    assert hours == {
        "runtime_oom": 24,
        "model_incompatible": 720,
        "runtime_segfault": 6,
        "runtime_crashed": 1,
        "access_denied": math.inf,
        "auth_required": math.inf,
        "model_not_found": math.inf,
    }
    assert failure("runtime_timeout", "t") == Failure("runtime_timeout", None, "t")
    flags = {reason: flag for reason, flag in FLAGS.items() if flag != "model_failure"}
    assert flags == {"runtime_oom": "model_oom", "model_incompatible": "model_incompatible"}
    assert failure("runtime_not_ready", "").flag is None


def test_the_text_of_a_crash_is_its_last_exception() -> None:
    tail = ["a", "ValueError: bad flag", "[rank0]: destroy_process_group() was not called", " "]
    assert failure_of(CRASH, tail).text == "the engine ended with 1: ValueError: bad flag"
    assert failure_of(CRASH, ["a", "b "]).text == "the engine ended with 1: b"
    assert failure_of(CRASH, []).text == "the engine ended with 1: its log is empty"
    assert len(failure_of(CRASH, ["x" * 4_096]).text) == 500


@pytest.mark.parametrize(("estimate", "length"), [(20_000, 15_904), (5_000, 1_024), (16, 1_024)])
def test_the_kv_cache_hint_is_read(estimate: int, length: int) -> None:
    line = f"available memory, the estimated maximum model length is {estimate}. Try increasing"
    assert hint(["ValueError: To serve", line, *LATER]) == length
    assert hint(LATER) is None


@given(st.lists(st.text(max_size=300), max_size=20), st.none() | st.integers(-64, 255))
def test_any_log_has_a_reason(tail: list[str], code: int | None) -> None:
    found = failure_of(Exit(code), tail)
    assert found.kept == KEPT[found.reason]
    assert len(found.text) <= 500
    hint(tail)


def test_long_lines_are_searched_quickly() -> None:
    tail = ["Model architecture " * 215, "implementation " * 270, "has model type " * 270] * 66
    assert failure_of(CRASH, tail).reason == "runtime_crashed"
