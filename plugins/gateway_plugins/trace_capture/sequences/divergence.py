"""Finds the token at which a prompt diverged from an earlier sequence, and the likely cause."""

from collections.abc import Sequence

from gateway import Cause, Divergence, Trace, TraceChoice
from gateway_plugins.trace_capture.sequences.messages import Message, read_message
from gateway_plugins.trace_capture.sequences.trajectories import MIN_SHARED_TOKENS, choices_of


def divergence(parent: Trace, choice_index: int, child: Trace) -> Divergence:
    """Return how the prompt of `child` diverged from the sequence of a choice of `parent`.

    `choice_index` is the choice's position in `parent.choices`; if there is no such choice, only
    the prompt in `parent`'s flat fields is compared. The first prompt of `child` is used.
    `found_id` is None if the sequence begins with the whole prompt. The texts of the two tokens are
    set if an engine sent them. The cause is inferred from both requests. Never raises, whatever was
    sent.
    """
    choice = _choice(parent, choice_index)
    sequence = [*choice.prompt_token_ids, *choice.token_ids]
    prompt = child.prompt_token_ids or _choice(child, 0).prompt_token_ids
    at = _first_difference(sequence, prompt)
    expected, found = _at(sequence, at), _at(prompt, at)
    texts = _texts(parent, child)
    try:
        cause = _cause(parent, choice, child, prompt, at)
    except RecursionError:  # values nested too deeply to compare
        cause = "unknown"
    return Divergence(
        trace_id=parent.trace_id,
        choice=choice_index,
        at=at,
        expected_id=expected,
        found_id=found,
        expected_text=texts.get(expected),
        found_text=texts.get(found),
        cause=cause,
    )


def _choice(trace: Trace, index: int) -> TraceChoice:
    choices = choices_of(trace)
    if 0 <= index < len(choices):
        return choices[index]
    return TraceChoice(prompt_token_ids=trace.prompt_token_ids)


def _first_difference(one: Sequence[int], other: Sequence[int]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def _at(ids: Sequence[int], place: int) -> int | None:
    return ids[place] if place < len(ids) else None


def _texts(*traces: Trace) -> dict[int | None, str]:
    """Return the text of each sampled token, if the engine sent it."""
    return {
        token: text
        for trace in traces
        for choice in trace.choices
        for token, text in zip(choice.token_ids, choice.tokens or (), strict=False)
        if not text.startswith("token_id:")  # vLLM's return_tokens_as_token_ids
    }


def _cause(parent: Trace, choice: TraceChoice, child: Trace, prompt: list[int], at: int) -> Cause:
    if _is_retry(parent, choice, child, prompt):
        return "retry"
    before, after = _messages(parent), _messages(child)
    if not before or not after:
        return _without_messages(parent, choice, child, at)
    answer = read_message(choice.message or parent.response_message)
    return _of_instructions(parent, child, before, after) or _of_history(
        before, answer, after, in_answer=at - len(choice.prompt_token_ids)
    )


def _is_retry(parent: Trace, choice: TraceChoice, child: Trace, prompt: list[int]) -> bool:
    if child.retry_of is not None and child.retry_of == parent.trace_id:
        return True
    return prompt == choice.prompt_token_ids and parent.raw_request == child.raw_request


def _without_messages(parent: Trace, choice: TraceChoice, child: Trace, at: int) -> Cause:
    """Return the cause for completions: their prompts are texts or token ids, not messages."""
    start, after = _field(parent, "prompt"), _field(child, "prompt")
    in_answer = at >= len(choice.prompt_token_ids)
    if in_answer and isinstance(start, str) and isinstance(after, str):
        if after.startswith(start + (choice.text or "")):
            return "retokenised_completion"
        return "unknown"
    return "other_conversation" if at < MIN_SHARED_TOKENS else "unknown"


def _of_instructions(
    parent: Trace, child: Trace, before: list[Message], after: list[Message]
) -> Cause | None:
    """Return the cause if tools or messages before the first turn differ; None if they do not."""
    old, new = _instructions(before), _instructions(after)
    same_tools = _tools(parent) == _tools(child)
    if same_tools and before[:old] == after[:new]:
        return None
    if not _begin_alike(before[old:], after[new:]):
        return "other_conversation"
    return "changed_tools" if before[:old] == after[:new] else "changed_system_prompt"


def _of_history(
    before: list[Message], answer: Message, after: list[Message], *, in_answer: int
) -> Cause:
    """Return the cause found in the turns.

    `in_answer` is the number of the completion's tokens that are in common; it is negative if the
    divergence lies in the parent's prompt.
    """
    history = [*before, answer]
    same = 0
    while same < min(len(history), len(after)) and _same(history[same], after[same]):
        same += 1
    if same == len(history):
        return _of_same_texts(history, in_answer)
    if same == len(after):
        return "unknown" if same == len(before) else "compacted_history"
    if _lost_reasoning(history[same], after[same]):
        return "stripped_reasoning"
    if _is_rewritten(history[same], after[same]):
        return "retokenised_completion"
    if same == len(before) and not _is_answer(after[same]):
        return "rejected_attempt"
    if same == len(before) or _share_texts(history[same + 1 :], after[same:]):
        return "compacted_history"
    began = same > _instructions(history)
    return "compacted_history" if began and len(after) < len(before) else "other_conversation"


def _of_same_texts(history: list[Message], in_answer: int) -> Cause:
    """Return the cause if all messages came back unchanged: they were tokenised differently.

    Chat templates omit reasoning that was sent back, for some turns or for all.
    """
    if in_answer < 0:
        thought = any(one.reasoning for one in history)
        return "stripped_reasoning" if thought else "unknown"
    left_at_once = in_answer == 0 and history[-1].reasoning
    return "stripped_reasoning" if left_at_once else "retokenised_completion"


def _same(one: Message, other: Message) -> bool:
    return one.visible() == other.visible() and one.reasoning == other.reasoning


def _lost_reasoning(one: Message, other: Message) -> bool:
    return bool(one.reasoning) and not other.reasoning and one.visible() == other.visible()


def _is_answer(message: Message) -> bool:
    """Whether it is one; opencode puts an empty message in the place of one that broke off."""
    return message.role == "assistant" and bool(message.text or message.calls or message.parts)


def _is_rewritten(one: Message, other: Message) -> bool:
    """Whether an answer came back with other arguments, or with another text for the same calls."""
    if (one.role, other.role) != ("assistant", "assistant"):
        return False
    names = [[name for name, _ in message.calls] for message in (one, other)]
    same_calls = bool(names[0]) and names[0] == names[1]
    return same_calls or (bool(one.text) and one.text == other.text)


def _share_texts(one: list[Message], other: list[Message]) -> bool:
    texts = {message.text for message in one if message.text}
    return not texts.isdisjoint(message.text for message in other)


def _begin_alike(one: list[Message], other: list[Message]) -> bool:
    return bool(one and other) and one[0].visible() == other[0].visible()


def _instructions(messages: list[Message]) -> int:
    """Number of messages before the first turn (roles system and developer)."""
    count = 0
    while count < len(messages) and messages[count].role in ("system", "developer"):
        count += 1
    return count


def _messages(trace: Trace) -> list[Message]:
    messages: object = trace.messages
    return list(map(read_message, messages)) if isinstance(messages, list) else []


def _tools(trace: Trace) -> list[object]:
    return [_field(trace, name) or None for name in ("tools", "functions")]


def _field(trace: Trace, name: str) -> object:
    return trace.raw_request.get(name) if isinstance(trace.raw_request, dict) else None
