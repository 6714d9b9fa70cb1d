"""What to do about what an engine says, and about the doctor's own findings."""

import re
from collections.abc import Mapping

from gateway_plugins.trace_capture.cli.doctor.results import Difference
from gateway_plugins.trace_capture.training.advice import advice_on

WHAT: Mapping[str, str] = {
    "caller_gone": "the answer did not end in time",
    "worker_broke_off": "the connection was lost before all was sampled",
    "error_answer": "the call was refused",
    "error_event": "the stream has an error",
    "aborted": "the engine stopped the generation",
    "unfinished": "a choice has no finish reason",
    "prompt_ids_missing": "no token ids of the prompt came",
    "token_ids_missing": "no token ids of the completion came",
    "logprobs_missing": "no logprobs came",
    "logprobs_invalid": "a logprob is null, -9999, above 0 or not finite",
    "usage_missing": "no usage came",
    "counts_differ": "token ids, logprobs and the engine's usage do not agree",
    "message_contradicts": "parts of the streamed message contradict each other",
    "not_a_sample": "the request asks for no sample",
    "reasoning_excluded": "the request excludes the reasoning, and with it all token ids",
    "unreadable": "the response does not have the form of its API",
    "too_large": "the response is longer than the gateway keeps",
    "redacted": "a plugin removed tokens",
    "capture_failed": "the gateway failed to record the call",
    "history_missing": "the prompt lacks its beginning, which no engine keeps",
    "not_translated": "the request has no exact equal in chat",
    "response_not_translated": "the response has no equal in the caller's API",
    "versions_differ": "the engine names other weights than the fleet knows it to have",
    "prompt_differs": "the engine makes another prompt of the request than of its translation",
}
"""Each reason of a verdict in a few words."""

UNREACHABLE = (
    "Start the worker, or correct its `url`. From this machine, `curl URL/models` must answer."
)
NO_MODEL = "Name the model: `model_name` of the worker, or --model."
NO_ANSWER = (
    "Look at the load of the worker; raise --timeout if it is only slow. Agents that wait no "
    "longer than this leave INCOMPLETE traces."
)
OTHER_MODEL = (
    "Correct `model_name` of the worker, or start the engine with `--served-model-name`: traces "
    "and trajectories have the name of a model that has not sampled them."
)
NOT_CAPTURED = "Add `sessions` and `trace_capture` to `plugins`."
NO_TRACE = "Read the log of the gateway: the call has left no trace."
NOT_REACHED = (
    "Look at GET /health/workers: the worker got none of these calls. Ask it alone: "
    "`gateway doctor --worker URL`."
)

_TITO = (
    " Or set `tito: prefer` of trace_capture: the sampled ids are then the next prompt "
    "(docs/tito.md)."
)
_TITO_SAID = "docs/tito.md says which calls cannot be carried as token ids."

_STRIPPED = (
    "Start the engine with a chat template that keeps the reasoning of earlier turns "
    "(`--chat-template`), and have the agent send it back." + _TITO
)
_RETOKENISED = (
    "The engine tokenises the text of an answer in another way than it was sampled, so each turn "
    "is a sequence of its own: train on turns." + _TITO
)
_REWRITTEN = (
    "Start the engine with a chat template that writes earlier turns as they were sampled "
    "(`--chat-template`): this one rewrites them, such as arguments of tool calls, spaces, or "
    "earlier answers." + _TITO
)

_SAID: Mapping[str, str] = {
    r"enable-auto-tool-choice|tool.call.parser|tool choice requires": "Start vLLM with "
    "`--enable-auto-tool-choice --tool-call-parser NAME`, SGLang with `--tool-call-parser NAME`, "
    "llama.cpp with `--jinja`.",
    r"max.logprobs|greater than max allowed": "Start vLLM with a higher `--max-logprobs`.",
    r"reasoning.parser|reasoning_config": "Start the engine with `--reasoning-parser NAME`.",
    r"scale-out": "Start vLLM with `--enable-scale-out`.",
    r"chat.template": "Start the engine with `--chat-template FILE`: the model has none, or it "
    "rejects these messages.",
    r"maximum context length|max_model_len|context size|too long": "Start the engine with a "
    "longer context (`--max-model-len` of vLLM).",
    r"model.{0,300}(does not exist|not found)|no worker serves": "Give the worker the name that "
    "GET /v1/models of the engine lists (`model_name`), or start the engine with "
    "`--served-model-name`.",
    r"api.key|unauthori[sz]ed|authentication": "Give the worker the engine's key: `headers: "
    "{authorization: Bearer ...}`.",
    r"logprobs": "Start the engine so that it allows logprobs; without them nothing can be "
    "trained on.",
}
"""What to do by what an engine says; the first pattern that fits."""


def advice_on_error(reason: str, message: str) -> str:
    """Return what to do about an error by what the engine says; by its reason if that is new."""
    return _by_words(message) or advice_on(reason)


def _by_words(message: str) -> str | None:
    for pattern, advice in _SAID.items():
        if re.search(pattern, message, re.IGNORECASE | re.DOTALL):
            return advice
    return None


def advice_on_difference(left: Difference) -> str:
    """Return what to do about turns that do not extend each other.

    The cause knows what the agent sent, which is here what it got. Texts that differ show that the
    template has rewritten it.
    """
    if left.tito is not None:
        return (
            f"`tito` is on, but this turn was carried as text. {_by_words(left.tito) or _TITO_SAID}"
        )
    expected, found = left.expected_after, left.found_after
    is_same_text = (
        not (expected and found) or expected.startswith(found) or found.startswith(expected)
    )
    if left.cause == "retokenised_completion" and is_same_text:
        return _RETOKENISED
    return _STRIPPED if left.cause == "stripped_reasoning" else _REWRITTEN
