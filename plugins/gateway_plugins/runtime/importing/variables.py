"""The table of the orchestrator's variables: what becomes of each of them."""

import msgspec

from gateway_plugins.runtime.importing import values
from gateway_plugins.runtime.importing.values import Read


class Variable(msgspec.Struct, frozen=True):
    """A variable: `default` is what the orchestrator takes without it, empty: nothing.

    `option` is the option here, empty: the variable has no effect. `note` says why, or what
    differs. `read` converts the value to the option's.
    """

    name: str
    default: str = ""
    option: str = ""
    note: str = ""
    read: Read = values.text

    @property
    def key(self) -> str:
        """The name of the option within its mapping."""
        return self.option.rpartition(".")[2]


_NO_REDIS = "There is no Redis: the queue and the usage are in the file `storage.path`."
_UNUSED = "The orchestrator does not use it either."
_CACHE = "The folder that containers have as `/root/.cache/huggingface`."
_READY = "Without the variable 1800. A log without a new line for 300 ends a load, too."

VARIABLES = (
    Variable(
        "AUTH_KEYS_FILE",
        "required",
        "auth.keys_file",
        "The new file, see `--keys`. Its keys are those of the file on the command line, hashed.",
    ),
    Variable("AUTH_KEYS_WATCH_INTERVAL_S", "1.5", "auth.check_interval", "", values.check_interval),
    Variable("REDIS_URL", "redis://redis:6379", note=_NO_REDIS),
    Variable("REDIS_CONNECT_ATTEMPTS", "60", note=_NO_REDIS),
    Variable("REDIS_CONNECT_BACKOFF_S", "0.5", note=_NO_REDIS),
    Variable("RUNTIME_TYPE", "sglang", "runtime.models[].engine", "", values.engine),
    Variable("RUNTIME_IMAGE", "by type", "runtime.models[].docker.image", "", values.name),
    Variable(
        "RUNTIME_ARGS",
        "by type",
        "runtime.models[].arguments",
        "Split as a shell does, so that JSON stays whole.",
        values.arguments,
    ),
    Variable("RUNTIME_PORT", "30000", "runtime.runtimes[].port", "", values.port),
    Variable("RUNTIME_API_PATH", "/v1/completions", note=_UNUSED),
    Variable(
        "REALTIME_MODEL",
        "synquid/gemma-3-27b-it-FP8",
        "runtime.runtimes[].realtime",
        "Also `name` of the one model in `runtime.models`. Add those that batch items name.",
        values.name,
    ),
    Variable(
        "HOST_HF_CACHE",
        "",
        "runtime.models[].docker.volumes",
        f"{_CACHE} Downloads go to its folder `hub`.",
        values.folder,
    ),
    Variable(
        "HOST_HF_CACHE_HOST",
        "",
        "runtime.models[].docker.volumes",
        "The same; counts instead of `HOST_HF_CACHE`.",
        values.folder,
    ),
    Variable(
        "VLLM_CACHE_HOST",
        "",
        "runtime.models[].docker.volumes",
        "The folder that containers of vLLM have as `/root/.cache/vllm`.",
        values.folder,
    ),
    Variable(
        "HF_TOKEN",
        "",
        "runtime.secrets",
        "Its name only. Set it in the environment of the gateway, which downloads with it and "
        "passes it on to engines.",
        values.secret,
    ),
    Variable("MIN_HOT_TTL_S", "600", "runtime.rules.min_hot", "", values.seconds),
    Variable("REALTIME_COOLDOWN_S", "120", "runtime.rules.cooldown", "", values.seconds),
    Variable("TOKENS_B", "3", "runtime.rules.tokens", "At least 1.", values.tokens),
    Variable(
        "TOKENS_REFILL_PER_SEC",
        "0.000555",
        "runtime.rules.refill",
        "Seconds per token: 1 divided by the value.",
        values.seconds_per_token,
    ),
    Variable("L_MAX_S", "600", note=_UNUSED),
    Variable("P_MAX", "0.3", note=_UNUSED),
    Variable("PREEMPT_CANCEL_TIMEOUT_S", "3.0", "runtime.rules.drain_batch", "", values.seconds),
    Variable("MAX_CONCURRENT_BATCH", "64", "batch.max_concurrent", "", values.count),
    Variable(
        "DEFAULT_READY_TIMEOUT_S",
        "120",
        "runtime.models[].ready_timeout",
        f"SGLang only. {_READY}",
        values.positive_seconds,
    ),
    Variable(
        "VLLM_READY_TIMEOUT_S",
        "900",
        "runtime.models[].ready_timeout",
        f"vLLM only. {_READY}",
        values.positive_seconds,
    ),
    Variable("WARMUP_MIN_INTERVAL_S", "30", note="Each start is warmed up."),
    Variable("READY_PROBE_LOG_INTERVAL_S", "15", note="The log has a line for each change."),
    Variable("MAX_MODEL_LEN_MARGIN_TOKENS", "4096", note="The margin is always 4096 tokens."),
    Variable(
        "RUNTIME_FAILURE_LOG_DIR",
        "<cache>/runtime_failures",
        "runtime.logs",
        "A folder of this machine; `/host_hf_cache` stands for that of `HOST_HF_CACHE`.",
    ),
    Variable("USAGE_HASH_PREFIX", "key_usage:", note=_NO_REDIS),
    Variable(
        "USAGE_BUCKET_TTL_S",
        "7776000",
        "usage.keep_days",
        "In whole days, rounded up, and counted from the day itself.",
        values.days,
    ),
    Variable("ENABLE_USAGE_DAILY_BUCKETS", "1", note="Usage is always kept by the day, too."),
    Variable(
        "INTERNAL_EVAL_KEY_ID",
        "__internal_eval__",
        "usage.internal_id",
        "The key of all calls without a key.",
        values.name,
    ),
    Variable(
        "EVAL_REPO_PATH",
        note="The option `repository` of the plugin `evaluations`, which has to be added.",
    ),
    Variable(
        "EVAL_PREP_CONCURRENCY",
        "3",
        note="The option `prepare_concurrency` of the plugin `evaluations`, with this default.",
    ),
    Variable(
        "REASONING_MAX_TOKENS",
        "8192",
        note="The option `reasoning_max_tokens` of the plugin `evaluations`, with this default.",
    ),
    Variable(
        "SAVE_ALL_EVAL_RESPONSES",
        "off",
        note="The plugin `evaluations` keeps all responses.",
    ),
    Variable(
        "EUROEVAL_DEBUG_LOG",
        "./euroeval_debug.log",
        note="Evaluations get it from the environment of the gateway.",
    ),
    Variable("FILTER_ACCESS_LOG", "1", note="Requests are logged only by the plugin `access_log`."),
    Variable("BASE_URL", note="Only the examples of the orchestrator read it."),
)

BY_NAME = {variable.name: variable for variable in VARIABLES}

DEFAULTS = {
    "sglang": {
        "RUNTIME_IMAGE": "lmsysorg/sglang:b200-cu129",
        "RUNTIME_ARGS": "--tp 2 --cuda-graph-max-bs 16",
    },
    "vllm": {
        "RUNTIME_IMAGE": "vllm/vllm-openai:latest",
        "RUNTIME_ARGS": "--tensor-parallel-size 2",
    },
}
"""What the orchestrator takes for each RUNTIME_TYPE, where the table says `by type`."""
