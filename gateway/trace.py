"""Records of calls as they are read back: traces, their sessions, and their trajectories.

These are the shapes of the HTTP interface, of the clients, of exports and of the capture hooks. The
names up to `raw_response` are those of rllm-model-gateway's TraceRecord; the gateway adds the
others. Times are Unix seconds, durations milliseconds, logprobs natural logarithms.
"""

from typing import Any, Literal

import msgspec

Verdict = Literal["COMPLETE", "INCOMPLETE"]
"""COMPLETE: the prompt's token ids and every sampled token are present, each of these with its
logprob, as many as the engine counted."""

Result = Literal["success", "error", "aborted", "caller_gone"]
"""How a call went.

- success: all that was asked for was sampled, whatever became of the connections after that.
- error: the worker or the gateway failed or rejected the call.
- aborted: the engine was told to stop (`finish_reason: "abort"`).
- caller_gone: the caller left before all was sampled.
"""

Reason = Literal[
    "caller_gone",
    "worker_broke_off",
    "error_answer",
    "error_event",
    "aborted",
    "unfinished",
    "prompt_ids_missing",
    "token_ids_missing",
    "logprobs_missing",
    "logprobs_invalid",
    "usage_missing",
    "counts_differ",
    "message_contradicts",
    "not_a_sample",
    "reasoning_excluded",
    "unreadable",
    "too_large",
    "redacted",
    "capture_failed",
    "history_missing",
    "not_translated",
    "response_not_translated",
    "prompt_differs",
    "versions_differ",
]
"""Why a choice is INCOMPLETE.

- caller_gone: the caller left before all was sampled, so the engine stopped early.
- worker_broke_off: the connection was lost, or a timeout ended it, before all was sampled.
- error_answer: a status other than 200, from the worker or from the gateway.
- error_event: an error in the stream.
- aborted: `finish_reason: "abort"`, a normal end on the wire; or an end before the first token.
- unfinished: a choice without a finish reason, or with nothing at all, even if `[DONE]` came.
- prompt_ids_missing, token_ids_missing, logprobs_missing, usage_missing: the engine did not send
  them.
- logprobs_invalid: a logprob is null, -9999, above 0, or not finite.
- counts_differ: ids, logprobs and the engine's usage do not agree.
- message_contradicts: parts of a streamed message contradict each other.
- not_a_sample: beam search, or the best of several.
- reasoning_excluded: `include_reasoning: false`, with which vLLM sends neither ids nor logprobs.
- unreadable: the response does not have the form of its dialect.
- too_large: the response was longer than the gateway keeps.
- redacted: a `redact_trace` hook removed tokens.
- capture_failed: the gateway itself could not record it.
- history_missing: the request continues a `thread` of Messages, so the prompt lacks its beginning.
- not_translated: the request has no exact equal in chat, so it was passed on as it is.
- response_not_translated: the response cannot be told in the caller's API: it got an error.
- prompt_differs: the engine makes another prompt of the request than of its translation.
- versions_differ: the engine names other weights than the fleet knows its worker to have.
"""


Cause = Literal[
    "retokenised_completion",
    "stripped_reasoning",
    "changed_tools",
    "changed_system_prompt",
    "compacted_history",
    "rejected_attempt",
    "retry",
    "other_conversation",
    "unknown",
]
"""Why a prompt left an earlier sequence, as far as that can be determined."""


ForkKind = Literal[
    "sample",
    "retry",
    "rejected_attempt",
    "compaction",
    "subagent",
    "reformatting",
    "unknown",
]
"""Why a branch leaves the others.

- sample: another choice of the same call.
- retry: the same request again.
- rejected_attempt: the harness went on as if the answer had not been given.
- compaction: a summary of earlier turns, or what goes on from one.
- subagent: the first call of another agent of the harness.
- reformatting: the same turns, written anew: other tokens for the same text, arguments of tool
  calls in another form, reasoning left out.
- unknown: none of these can be shown.
"""

CallKind = Literal["turn", "compaction", "title", "router", "subagent"]
"""What a harness makes a call for.

- turn: the next turn of the conversation.
- compaction: a summary that takes the place of earlier turns.
- title: a name for the session.
- router: a choice of the model, or of the way to go on.
- subagent: a turn of a subagent that has no id of its own.
"""


class Harness(msgspec.Struct, frozen=True):
    """The program that runs an agent, and what it says of one call.

    `name` is the preset that knows it, such as claude-code. `agent_id` is the agent within the
    session, None for the main one; `parent_agent_id` is the agent that started it, None for the
    main one. `parent_session_id` is the session that started the call's session. `call_kind` is
    None if the harness does not say.
    """

    name: str
    agent_id: str | None = None
    parent_agent_id: str | None = None
    parent_session_id: str | None = None
    call_kind: CallKind | None = None


class WeightSpan(msgspec.Struct, kw_only=True):
    """Sampled tokens from `start` to `end` (exclusive) of a choice, and who sampled them.

    `version` is the engine's name of the weights; "default" is vLLM's for weights without one.
    """

    version: int | str
    start: int
    end: int


class TraceChoice(msgspec.Struct, kw_only=True):
    """One choice of a response: one sampled sequence.

    `index` is prompt * n + i. `token_ids` are the sampled ones, including the end of sequence and
    tokens hidden by a stop string; `logprobs` has one value per token id (None: the engine sent
    null). `message` is the chat message, for a stream assembled as the plain response would have
    had it; `text` is the text of a completion. `tokens` has the engine's text of each token, if the
    engine sent it; `top_logprobs` and `prompt_logprobs` are as the engine sent them.
    `weight_versions` are the versions that sampled `token_ids`, span by span, if the engine tells.
    """

    index: int = 0
    message: dict[str, Any] | None = None
    text: str | None = None
    prompt_token_ids: list[int] = []
    token_ids: list[int] = []
    logprobs: list[float | None] = []
    tokens: list[str] | None = None
    top_logprobs: list[Any] | None = None
    prompt_logprobs: list[Any] | None = None
    routing_matrices: Any = None
    weight_versions: list[WeightSpan] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    verdict: Verdict = "INCOMPLETE"
    reasons: list[Reason] = []


class TraceAttempt(msgspec.Struct, kw_only=True):
    """One try at a worker; times are from the call's start. `tokens`, and the version of the
    worker's weights, are told of a stream that several workers sent."""

    worker: str
    started_ms: float
    connected_ms: float | None = None
    first_byte_ms: float | None = None
    ended_ms: float | None = None
    status: int | None = None
    error: str | None = None
    tokens: int | None = None
    weight_version: int | str | None = None


class Timings(msgspec.Struct, kw_only=True):
    """Milliseconds: `queue` before the last attempt, `ttft` until the caller's first byte.

    `itl` is the time between events of a stream, as they came from the worker.
    """

    queue_ms: float = 0.0
    connect_ms: float | None = None
    ttft_ms: float | None = None
    total_ms: float = 0.0
    itl_p50_ms: float | None = None
    itl_p99_ms: float | None = None


class Delivery(msgspec.Struct, kw_only=True):
    """The caller's side: bytes of the body, whether it left, whether the response was whole.

    `result` is how the call went, the same as in bills, metrics and logs; None in old traces.
    `repeated`: an attempt at a work of the gateway's own, which ran again in another call.
    """

    status: int = 0
    bytes: int = 0
    caller_gone: bool = False
    complete: bool = False
    result: Result | None = None
    repeated: bool = False


class WeightVersions(msgspec.Struct, kw_only=True):
    """The versions that the engine put in the response, and that the admin call set.

    `worker` is that of the worker's weights at the start, `worker_end` at the end if it changed.
    """

    engine: int | str | None = None
    worker: int | str | None = None
    worker_end: int | str | None = None
    admin: int | None = None


class Divergence(msgspec.Struct, kw_only=True):
    """The point at which a prompt left the earlier sequence that it has most in common with.

    `at` is the index of the first token that differs, in both; `found_id` is None if the whole
    prompt is in common. `cause` is the likely one.
    """

    trace_id: str
    choice: int
    at: int
    expected_id: int | None = None
    found_id: int | None = None
    expected_text: str | None = None
    found_text: str | None = None
    cause: Cause = "unknown"


class TraceSpan(msgspec.Struct):
    """A call's span in the distributed trace that it is part of, in hexadecimal digits.

    `parent_id` is the caller's span, None if the call began the trace. If no plugin records spans,
    `span_id` is the caller's, too.
    """

    trace_id: str
    span_id: str
    parent_id: str | None = None


class WireResponse(msgspec.Struct, kw_only=True):
    """A response as its worker sent it, but for cookies; `body` is base64 in JSON."""

    status: int
    headers: list[tuple[str, str]] = []
    body: bytes = b""


class Trace(msgspec.Struct, kw_only=True):
    """The record of one call.

    The flat names describe the first choice, `choices` has all of them. `raw_request` is what the
    caller sent, or what it was translated to: `translated_from` is then the caller's API, and
    `path` and `dialect` are those of the worker. `injected` and `overwritten` are the keys that the
    gateway set in it, with the values that were sent. `raw_response` is the engine's response in
    the form of a plain one. `metadata` is for hooks to fill, and has the details of the reasons
    that plugins gave by `call.note`. `parent_id` is the trace whose sequence this prompt extends or
    diverged from; `divergence` is set only if it diverged. `retry_of` is the earlier trace of the
    same request. `span` is set if the call was part of a distributed trace.
    """

    trace_id: str
    session_id: str = ""
    model: str = ""
    messages: list[dict[str, Any]] = []
    prompt_token_ids: list[int] = []
    response_message: dict[str, Any] = {}
    completion_token_ids: list[int] = []
    logprobs: list[float | None] | None = None
    routing_matrices: Any = None
    finish_reason: str | None = None
    weight_version: int | str | None = None
    latency_ms: float = 0.0
    token_counts: dict[str, int] = {}
    timestamp: float = 0.0
    metadata: dict[str, Any] = {}
    raw_request: dict[str, Any] | None = None
    raw_response: dict[str, Any] | None = None

    call_id: str = ""
    parent_id: str | None = None
    divergence: Divergence | None = None
    retry_of: str | None = None
    dialect: str | None = None
    path: str = ""
    translated_from: str | None = None
    streamed: bool = False
    response_id: str = ""
    worker: str | None = None
    principal: str | None = None
    harness: Harness | None = None
    span: TraceSpan | None = None
    attempts: list[TraceAttempt] = []
    injected: dict[str, Any] = {}
    overwritten: dict[str, Any] = {}
    sampling_params: dict[str, Any] = {}
    choices: list[TraceChoice] = []
    usage: dict[str, Any] | None = None
    weight_versions: WeightVersions = msgspec.field(default_factory=WeightVersions)
    timings: Timings = msgspec.field(default_factory=Timings)
    delivery: Delivery = msgspec.field(default_factory=Delivery)
    error: str | None = None
    verdict: Verdict = "INCOMPLETE"
    reasons: list[Reason] = []
    wire_response: WireResponse | None = None


class SessionInfo(msgspec.Struct, kw_only=True):
    """A session. `incomplete` counts its traces that are not COMPLETE.

    `lost` counts the calls whose trace could not be stored. `tito` is its own mode of
    token-in/token-out, `parent_session_id` the session that started this one, if the harness of a
    call says so; lists of sessions leave both out. `sampled_tokens` were sampled in all its
    traces, of which `trainable_tokens` belong to choices that are COMPLETE.
    """

    session_id: str
    trace_count: int = 0
    created_at: float | None = None
    metadata: dict[str, Any] = {}
    sampling_params: dict[str, Any] = {}
    last_at: float | None = None
    incomplete: int = 0
    lost: int = 0
    tito: str | None = None
    parent_session_id: str | None = None
    sampled_tokens: int = 0
    trainable_tokens: int = 0


class Reward(msgspec.Struct, kw_only=True):
    """A judgement of a session, or of one of its traces, given at any time."""

    value: float
    source: str = ""
    trace_id: str | None = None
    timestamp: float = 0.0


class Trajectory(msgspec.Struct, kw_only=True):
    """One branch of a session's tree of turns, as one sequence of tokens.

    `token_ids`, `loss_mask`, `logprobs` and `weight_versions` have the same length. `loss_mask` is
    1 exactly on sampled tokens, each sampled token once over all branches of the session: if
    branches share a turn, only the first has its mask set. `logprobs` and `weight_versions` are
    None if the mask is 0. `trace_ids` are the turns in order, `choices` the position of each turn's
    choice. `branched_from` is the branch that shares its first `shared` tokens with this one; none
    of these tokens was sampled for this branch. `fork_kind` says why the branch leaves the others;
    it is None for the first branch.
    """

    index: int
    token_ids: list[int]
    loss_mask: list[int]
    logprobs: list[float | None]
    weight_versions: list[int | str | None]
    trace_ids: list[str]
    choices: list[int]
    verdict: Verdict
    reasons: list[Reason] = []
    branched_from: int | None = None
    shared: int = 0
    divergence: Divergence | None = None
    fork_kind: ForkKind | None = None
    rewards: list[Reward] = []


class Trajectories(msgspec.Struct, kw_only=True):
    """All branches of a session, its rewards, and the traces that belong to no branch.

    A trace without token ids cannot be part of a branch; it is in `left_out` with its reasons.
    """

    session_id: str
    trajectories: list[Trajectory]
    rewards: list[Reward] = []
    left_out: dict[str, list[Reason]] = {}
