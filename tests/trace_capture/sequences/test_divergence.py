"""The likely causes of a divergence, each from two calls as agents make them."""

from typing import Any

import pytest
from gateway_plugins.trace_capture.sequences.divergence import divergence
from hypothesis import given
from hypothesis import strategies as st

from gateway import Trace, TraceChoice

Messages = list[dict[str, Any]]

SYSTEM = {"role": "system", "content": "You are terse."}
QUESTION = {"role": "user", "content": "What is six times seven?"}
NEXT = {"role": "user", "content": "And times two?"}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {}}}]


def ids_of(pieces: list[str]) -> list[int]:
    """A token for each piece; one of a single character is that character's number."""
    return [ord(p) if len(p) == 1 else 2_000_000 + sum(p.encode()) for p in pieces]


def rendered(messages: Messages, tools: object = None, *, reasoning: bool = True) -> list[int]:
    text = f"T{tools}" if tools else ""
    for message in messages:
        thought = message.get("reasoning") or message.get("reasoning_content")
        inside = f"<think>{thought}</think>" if reasoning and thought else ""
        text += f"[{message['role']}]{inside}{message.get('content') or ''}"
    return ids_of([*text, *"[assistant]"])


def call(
    trace_id: str,
    messages: Messages,
    pieces: list[str] | None = None,
    answer: dict[str, Any] | None = None,
    **body: Any,
) -> Trace:
    pieces = ["Forty", "-", "two"] if pieces is None else pieces
    message = answer or {"role": "assistant", "content": "".join(pieces), "refusal": None}
    prompt = rendered(messages, body.get("tools"), reasoning=body.pop("template_keeps", True))
    choice = TraceChoice(
        message=message, prompt_token_ids=prompt, token_ids=ids_of(pieces), tokens=pieces
    )
    return Trace(
        trace_id=trace_id,
        messages=messages,
        raw_request={"messages": messages, **body},
        prompt_token_ids=prompt,
        response_message=message,
        choices=[choice],
    )


def cause(parent: Trace, child: Trace) -> str:
    return divergence(parent, 0, child).cause


FIRST = [SYSTEM, QUESTION]
ANSWER = {"role": "assistant", "content": "Forty-two"}


def test_divergence_reports_the_tokens_of_a_retokenised_completion() -> None:
    parent = call("a", FIRST)
    child = call("b", [*FIRST, ANSWER, NEXT], ["F", "84"])
    found = divergence(parent, 0, child)
    assert (found.trace_id, found.choice, found.at) == ("a", 0, len(parent.prompt_token_ids))
    assert (found.expected_id, found.found_id) == (ids_of(["Forty"])[0], ord("F"))
    assert (found.expected_text, found.found_text) == ("Forty", "F")
    assert found.cause == "retokenised_completion"


@pytest.mark.parametrize(
    "copy",
    [
        {"role": "assistant", "content": "Forty-two\n"},
        {"role": "assistant", "content": [{"type": "text", "text": "Forty-two"}]},
        {"role": "assistant", "content": "Forty-two", "tool_calls": [], "name": None},
    ],
)
def test_divergence_treats_an_equivalent_message_as_retokenised(copy: dict[str, Any]) -> None:
    child = call("b", [*FIRST, copy, NEXT])
    child.prompt_token_ids = rendered([*FIRST, ANSWER, NEXT])
    assert cause(call("a", FIRST), child) == "retokenised_completion"


def test_divergence_compares_tool_calls_by_their_names() -> None:
    """Harnesses write arguments anew, and some fill in paths and defaults."""

    def calling(arguments: str, call_id: str, name: str = "add") -> dict[str, Any]:
        function = {"name": name, "arguments": arguments}
        tool_call = {"id": call_id, "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [tool_call]}

    parent = call("a", FIRST, answer=calling('{"a": 1, "b": 2}', "x"))
    result = {"role": "tool", "tool_call_id": "y", "content": "3"}
    same = call("b", [*FIRST, calling('{"a":1,"b":2}', "y"), result])
    edited = call("b", [*FIRST, calling('{"a":1,"b":7}', "y"), result])
    other = call("b", [*FIRST, calling('{"a":1,"b":2}', "y", "multiply"), result])
    assert cause(parent, same) == "retokenised_completion"
    assert cause(parent, edited) == "retokenised_completion"
    assert cause(parent, other) == "compacted_history"


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_divergence_reports_reasoning_that_the_agent_stripped(name: str) -> None:
    answer = {**ANSWER, name: "6 * 7"}
    parent = call("a", FIRST, ["<think>", "6 * 7", "</think>", "Forty-two"], answer)
    assert cause(parent, call("b", [*FIRST, ANSWER, NEXT])) == "stripped_reasoning"


@pytest.mark.parametrize("text", ["<think>6 * 7</think>\n\nForty-two", "6 * 7</think>Forty-two"])
def test_divergence_finds_stripped_reasoning_inside_the_content(text: str) -> None:
    parent = call("a", FIRST, [text])
    assert cause(parent, call("b", [*FIRST, ANSWER, NEXT])) == "stripped_reasoning"


def test_divergence_reports_reasoning_that_the_template_dropped() -> None:
    answer = {**ANSWER, "reasoning": "6 * 7"}
    parent = call("a", FIRST, ["<think>", "6 * 7", "</think>", "Forty-two"], answer)
    back = {**ANSWER, "reasoning_content": "6 * 7"}
    child = call("b", [*FIRST, back, NEXT], template_keeps=False)
    assert cause(parent, child) == "stripped_reasoning"
    kept = call("b", [*FIRST, back, NEXT])
    kept.prompt_token_ids = parent.prompt_token_ids + parent.choices[0].token_ids[:1] + [5]
    assert cause(parent, kept) == "retokenised_completion"


def test_divergence_reports_dropped_reasoning_of_an_earlier_turn() -> None:
    thought = {**ANSWER, "reasoning": "6 * 7"}
    parent = call("a", [*FIRST, thought, NEXT], ["Eighty"])
    last = {"role": "assistant", "content": "Eighty"}
    child = call("b", [*FIRST, thought, NEXT, last, NEXT], template_keeps=False)
    assert cause(parent, child) == "stripped_reasoning"
    plain = call("b", [*FIRST, ANSWER, NEXT, last, NEXT])
    assert cause(parent, plain) == "stripped_reasoning"


def test_divergence_reports_changed_tools() -> None:
    parent = call("a", FIRST, tools=TOOLS)
    assert cause(parent, call("b", [*FIRST, ANSWER, NEXT], tools=TOOLS * 2)) == "changed_tools"
    assert cause(parent, call("b", [*FIRST, ANSWER, NEXT])) == "changed_tools"
    empty = call("b", [*FIRST, ANSWER, NEXT], tools=[])
    assert cause(call("a", FIRST), empty) == "retokenised_completion"


@pytest.mark.parametrize("role", ["system", "developer"])
def test_divergence_reports_a_changed_system_prompt(role: str) -> None:
    changed = {"role": role, "content": "You are terse. It is noon."}
    child = call("b", [changed, QUESTION, ANSWER, NEXT])
    assert cause(call("a", FIRST), child) == "changed_system_prompt"
    without = call("b", [QUESTION, ANSWER, NEXT])
    assert cause(call("a", FIRST), without) == "changed_system_prompt"


def turns(count: int) -> Messages:
    made: Messages = []
    for turn in range(count):
        made.append({"role": "user", "content": f"question {turn}"})
        made.append({"role": "assistant", "content": f"answer {turn}"})
    return made


SUMMARY = {"role": "user", "content": "So far we have spoken of numbers."}


@pytest.mark.parametrize(
    "after",
    [
        [SYSTEM, *turns(5)[4:], QUESTION, ANSWER, NEXT],  # a window that slides
        [SYSTEM, *turns(5)[:2], SUMMARY, NEXT],  # the middle made short
        [SYSTEM, SUMMARY, QUESTION, ANSWER, NEXT],  # all but the last turn made short
        [SYSTEM, *turns(5), QUESTION, {"role": "assistant", "content": "[cut]"}, NEXT],
        [SYSTEM, *turns(5)],  # back to an earlier turn
    ],
)
def test_divergence_reports_a_compacted_history(after: Messages) -> None:
    parent = call("a", [SYSTEM, *turns(5), QUESTION])
    assert cause(parent, call("b", after)) == "compacted_history"


def test_divergence_reports_an_answer_that_the_agent_left_out() -> None:
    parent = call("a", [SYSTEM, *turns(5), QUESTION])
    assert cause(parent, call("b", [SYSTEM, *turns(5), QUESTION, NEXT])) == "rejected_attempt"


def test_divergence_reports_a_retry_of_the_same_request() -> None:
    parent = call("a", FIRST)
    child = call("b", FIRST)
    found = divergence(parent, 0, child)
    assert (found.cause, found.at) == ("retry", len(parent.prompt_token_ids))
    assert (found.expected_text, found.found_id, found.found_text) == ("Forty", None, None)
    other = call("b", FIRST, seed=1)
    assert cause(parent, other) == "unknown"
    other.retry_of = "a"
    assert cause(parent, other) == "retry"


@pytest.mark.parametrize(
    "after",
    [
        [SYSTEM, NEXT],
        [NEXT],
        [{"role": "system", "content": "You title chats."}, NEXT],
        [SYSTEM, *turns(5), {"role": "user", "content": "something else"}],
    ],
)
def test_divergence_reports_another_conversation(after: Messages) -> None:
    assert cause(call("a", [SYSTEM, *turns(5), QUESTION]), call("b", after)) == "other_conversation"


def completion(trace_id: str, prompt: object, ids: list[int], text: str) -> Trace:
    choice = TraceChoice(prompt_token_ids=ids, token_ids=[9, 9], text=text)
    return Trace(trace_id=trace_id, raw_request={"prompt": prompt}, choices=[choice])


def test_divergence_compares_the_prompts_of_completions() -> None:
    long = list(range(20))
    parent = completion("a", "one two", long, " three")
    again = completion("b", "one two three four", [*long, 8, 8], "")
    assert cause(parent, again) == "retokenised_completion"
    assert cause(parent, completion("b", "one two", long, "")) == "retry"
    assert cause(parent, completion("b", "one two 3", [*long, 8], "")) == "unknown"
    assert cause(parent, completion("b", "zero", [0, 5], "")) == "other_conversation"
    assert cause(parent, completion("b", [0, 1], [*long, 8], "")) == "unknown"


def test_divergence_names_the_choice_and_reads_its_message() -> None:
    parent = call("a", FIRST)
    second = TraceChoice(
        message={"role": "assistant", "content": "42"},
        prompt_token_ids=parent.prompt_token_ids,
        token_ids=[5, 6],
    )
    parent.choices.append(second)
    found = divergence(parent, 1, call("b", [*FIRST, {"role": "assistant", "content": "42"}]))
    assert (found.choice, found.expected_id, found.expected_text) == (1, 5, None)
    assert found.cause == "retokenised_completion"


def test_divergence_gives_no_text_if_the_tokens_are_ids() -> None:
    parent = call("a", FIRST)
    parent.choices[0].tokens = ["token_id:1", "token_id:2", "token_id:3"]
    child = call("b", [*FIRST, ANSWER, NEXT], ["x"])
    assert divergence(parent, 0, child).expected_text is None


def nested(depth: int) -> list[Any]:
    made: list[Any] = []
    for _ in range(depth):
        made = [made]
    return made


def test_divergence_is_unknown_for_too_deeply_nested_requests() -> None:
    one = Trace(trace_id="a", raw_request={"prompt": nested(100_000)}, prompt_token_ids=[1])
    other = Trace(trace_id="b", raw_request={"prompt": nested(100_000)}, prompt_token_ids=[1])
    assert cause(one, other) == "unknown"


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
NAMES = st.sampled_from(
    ["role", "content", "text", "tool_calls", "function", "arguments", "reasoning", "tools"]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES, VALUES, VALUES, st.integers(-3, 3), st.lists(st.integers(0, 1), max_size=4))
def test_divergence_never_raises_on_any_messages(
    before: Any, answer: Any, after: Any, index: int, prompt: list[int]
) -> None:
    choice = TraceChoice(message=answer, prompt_token_ids=[0], token_ids=[1])
    parent = Trace(trace_id="a", messages=before, raw_request=before, choices=[choice])
    child = Trace(
        trace_id="b", messages=after, raw_request={"tools": after}, prompt_token_ids=prompt
    )
    divergence(parent, index, child)
