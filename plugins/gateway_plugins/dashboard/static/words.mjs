// What the verdicts, reasons and causes of traces mean, in words.

export const REASONS = {
  caller_gone: "The caller left before all was sampled.",
  worker_broke_off: "The connection to the worker was lost, or a timeout ended the call.",
  error_answer: "The status is not 200, of the worker or of the gateway.",
  error_event: "The stream has an error.",
  aborted: "The engine was told to stop.",
  unfinished: "The choice has no finish reason.",
  prompt_ids_missing: "The engine sent no token ids of the prompt.",
  token_ids_missing: "The engine sent no token ids of what it sampled.",
  logprobs_missing: "The engine sent no logprobs.",
  logprobs_invalid: "A logprob is missing, above 0, or not finite.",
  usage_missing: "The engine sent no usage.",
  counts_differ: "Token ids, logprobs and the engine's usage do not agree.",
  message_contradicts: "Parts of the streamed message contradict each other.",
  not_a_sample: "Beam search, or the best of several: not sampled from the model.",
  reasoning_excluded: "The request excluded the reasoning, so the engine sent no ids.",
  unreadable: "The response does not have the form of its API.",
  too_large: "The response was longer than the gateway keeps.",
  redacted: "A plugin removed tokens.",
  capture_failed: "The gateway could not record the call.",
  history_missing: "The request continues a thread, which engines do not keep: the prompt lacks its beginning.",
  not_translated: "The request has no exact equal in chat.",
  response_not_translated: "The response has no equal in the caller's API, so the caller got an error.",
  prompt_differs: "The engine makes another prompt of the request than of its translation.",
  versions_differ: "The engine names other weights than its worker is known to have.",
};

export const CAUSES = {
  retokenised_completion: "the agent sent text back, and its tokens differ from the sampled ones",
  stripped_reasoning: "the agent left the reasoning out",
  changed_tools: "the tools changed",
  changed_system_prompt: "the system prompt changed",
  compacted_history: "the history was compacted",
  rejected_attempt: "the agent went on as if the answer had not been given",
  retry: "the same request again",
  other_conversation: "another conversation",
  unknown: "for an unknown cause",
};

export const FORK_KINDS = {
  sample: "another choice of the call",
  retry: "a retry",
  rejected_attempt: "after a rejected attempt",
  compaction: "a compaction",
  subagent: "a subagent",
  reformatting: "the same turns, written anew",
  unknown: "a fork of unknown kind",
};

const CUT_OFF = ["caller_gone", "worker_broke_off"];

/** Return why a trace is as it is, for people: what was cut off is unfinished for that reason. */
export function why(reasons) {
  const cutOff = reasons.some(one => CUT_OFF.includes(one));
  const told = cutOff ? reasons.filter(one => one !== "unfinished") : reasons;
  return told.map(one => REASONS[one] ?? one).join(" ");
}
