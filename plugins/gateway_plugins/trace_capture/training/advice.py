"""What to do about each reason for which a call cannot be trained on."""

from collections.abc import Mapping

DOCS = "docs/capture.md#what-to-do-about-each-reason"
"""The place in the manual that has the same."""

ADVICE: Mapping[str, str] = {
    "caller_gone": "Give the agents more time: they leave before the answer has ended. The time "
    "limit of their client, or of the task, is shorter than the answers.",
    "worker_broke_off": "Read the log of the worker, and compare `timeouts` with the time that it "
    "needs.",
    "error_answer": "Look at the status of these calls: a limit, a model that no worker has, a "
    "prompt that is too long, or a request that the engine rejects.",
    "error_event": "Read the log of the worker: it failed in the middle of a stream.",
    "aborted": "Nothing, if the engine was paused for new weights. Else find out who aborts.",
    "unfinished": "Read the log of the worker: it ended answers that were not finished. Update it.",
    "prompt_ids_missing": "Leave `token_ids` of trace_capture and `inject` of the worker on. Use "
    "an engine that sends the ids of prompts, see the table of engines.",
    "token_ids_missing": "Leave `token_ids` of trace_capture and `inject` of the worker on. Use "
    "an engine that sends ids; for Messages and Responses add the plugin `translate`.",
    "logprobs_missing": "Leave `logprobs` of trace_capture and `inject` of the worker on. Start "
    "the engine so that it sends logprobs.",
    "logprobs_invalid": "Look at sampling parameters that forbid tokens, and at the engine's "
    "numerics: it sampled a token that it calls impossible.",
    "usage_missing": "Leave `usage` of trace_capture and `inject` of the worker on.",
    "counts_differ": "Look at the engine's parsers of reasoning and of tool calls: one of them "
    "drops tokens. Start SGLang with its parsers.",
    "message_contradicts": "Update the engine's parser of tool calls. The tokens are right: the "
    "calls can be exported with `--allow-incomplete`.",
    "not_a_sample": "Leave `use_beam_search` and `best_of` out of the requests.",
    "reasoning_excluded": "Leave `include_reasoning` out of the requests; have the agent drop the "
    "reasoning.",
    "unreadable": "Look at `raw_response` of a trace: the worker, or a proxy before it, does not "
    "speak the API.",
    "too_large": "Raise `max_answer_bytes` of trace_capture, or request fewer alternatives.",
    "redacted": "Nothing, if your plugin is to remove tokens.",
    "capture_failed": "Read the log of the gateway, and report the failure.",
    "not_translated": "Leave out of the requests what chat does not have: see dialects.md.",
    "history_missing": "Have the agent send the whole conversation: engines keep no `thread`.",
    "response_not_translated": "Read the metadata of a trace: the engine sent what the caller's "
    "API cannot hold.",
    "prompt_differs": "Change the chat template or the order of the workers: see dialects.md.",
    "versions_differ": "Ask the worker for its version: somebody else has changed its weights, or "
    "the engine was not told the version that it has.",
}

OTHER = "Read the metadata of a trace: a plugin gave this reason."


def advice_on(reason: str) -> str:
    """Return what to do about a reason, also about one of a plugin."""
    return ADVICE.get(reason, OTHER)
