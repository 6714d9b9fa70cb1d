"""Which conversation continues which."""

from typing import Any

from gateway_plugins.trace_capture.tito.history import agrees, history_of
from gateway_plugins.trace_capture.tito.suffix import End
from gateway_plugins.trace_capture.tito.turns import TURN_OVERHEAD, Turn, Turns
from hypothesis import given
from hypothesis import strategies as st

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "text", "tool_calls"]), inner)
    ),
    max_leaves=6,
)
words = st.text("ab <>", max_size=4)
answers = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": words | st.none()},
    optional={"reasoning": words},
)
asks = st.fixed_dictionaries({"role": st.sampled_from(["user", "tool"]), "content": words})
conversations = st.lists(asks | answers, min_size=1, max_size=6)


def request(messages: list[Any], **fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": messages, **fields}


def turn_of(messages: list[Any], answer: dict[str, Any], name: str = "t") -> Turn:
    history = history_of(request(messages), answer)
    return Turn(name, history.digests[-1], history.thoughts, b"1234", b"5678", End(1, "cut"))


@given(conversations, answers, conversations)
def test_a_request_continues_the_turn_that_it_begins_with(
    before: list[Any], answer: dict[str, Any], more: list[Any]
) -> None:
    turns = Turns()
    turns.add("s", turn_of(before, answer))
    found = turns.longest("s", history_of(request([*before, answer, *more])))
    assert found is not None
    assert found[0] >= len(before)
    assert turns.longest("s", history_of(request(before))) is None or answer in before


@given(conversations, answers, st.data())
def test_a_message_that_was_changed_ends_the_continuation(
    before: list[Any], answer: dict[str, Any], data: st.DataObject
) -> None:
    turns = Turns()
    turns.add("s", turn_of(before, answer))
    whole = [*before, answer]
    place = data.draw(st.sampled_from(range(len(whole))))
    whole[place] = {**whole[place], "content": "changed"}
    assert turns.longest("s", history_of(request(whole))) is None


@given(conversations, answers)
def test_white_space_and_lost_reasoning_do_not_count(
    before: list[Any], answer: dict[str, Any]
) -> None:
    turns = Turns()
    turns.add("s", turn_of(before, {**answer, "reasoning": "a thought"}))
    for sent in ({**answer, "reasoning": "a thought"}, {**answer, "reasoning": None}):
        sent["content"] = f" {answer['content'] or ''}\n"
        assert turns.longest("s", history_of(request([*before, sent]))) is not None
    other = {**answer, "reasoning": "another"}
    assert turns.longest("s", history_of(request([*before, other]))) is None


def test_arguments_of_tools_are_compared_as_json() -> None:
    def answer(arguments: str) -> dict[str, Any]:
        call = {"id": "1", "function": {"name": "look", "arguments": arguments}}
        return {"role": "assistant", "content": None, "tool_calls": [call]}

    one = history_of(request([answer('{"a": 1, "b": 2}')]))
    assert one.digests == history_of(request([answer('{"b":2,"a":1}')])).digests
    assert one.digests != history_of(request([answer('{"b":2,"a":2}')])).digests


def test_what_the_whole_prompt_depends_on_begins_another_conversation() -> None:
    messages = [{"role": "user", "content": "Hi"}]
    bare = history_of(request(messages)).digests
    changes: list[dict[str, Any]] = [
        {"model": "other"},
        {"tools": [{"type": "function"}]},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"tool_choice": "none"},
    ]
    for change in changes:
        assert history_of(request(messages, **change)).digests != bare
    assert history_of(request(messages, temperature=1, tools=[])).digests == bare


@given(st.lists(st.sampled_from([b"", b"1", b"2"]), max_size=4))
def test_thoughts_may_be_left_out_but_not_changed(known: list[bytes]) -> None:
    assert agrees(known, known)
    assert agrees([b""] * len(known), known)
    assert not known or not agrees(known[:-1], known)
    assert not known or not agrees([*known[:-1], b"3"], known)


@given(json_values)
def test_any_messages_have_a_history(value: Any) -> None:
    found = history_of({"messages": value}, value)
    assert len(found.digests) == len(found.thoughts) == len(found.roles)


def test_the_memory_is_bounded() -> None:
    size = TURN_OVERHEAD + 8 + 40 * 2
    turns = Turns(max_bytes=10 * size)
    for number in range(50):
        for text in ("a", "b"):
            message = {"role": "assistant", "content": text}
            turns.add(f"s{number}", turn_of([{"role": "user", "content": "Hi"}], message, text))
    kept = [number for number in range(50) if turns.has(f"s{number}")]
    assert kept == [45, 46, 47, 48, 49]
    for number in range(100):
        message = {"role": "assistant", "content": str(number)}
        turns.add("s49", turn_of([{"role": "user", "content": "Hi"}], message))
    asked = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "0"}]
    assert turns.longest("s49", history_of(request(asked))) is None
    asked[1]["content"] = "99"
    assert turns.longest("s49", history_of(request(asked))) is not None
    turns.forget("s49")
    assert not turns.has("s49")
