"""Tool calls put together from the fragments of a stream, as the engines of the field send them."""

import json
from random import Random
from typing import Any

import pytest
from gateway_plugins.trace_capture.answers.assembly import assemble
from gateway_plugins.trace_capture.answers.tool_calls import ToolCalls
from hypothesis import given
from hypothesis import strategies as st
from support.records.random_answers import pieces, some

JSON = dict[str, Any]
Calls = list[tuple[str, str]]


def fragment(arguments: str, **fields: Any) -> JSON:
    """A fragment; `name` goes into its function."""
    function = {"arguments": arguments, **{k: fields.pop(k) for k in ("name",) if k in fields}}
    return {**fields, "function": function}


def whole(name: str, arguments: str, **fields: Any) -> JSON:
    return fragment(arguments, name=name, type="function", **fields)


def put_together(*fragments: JSON) -> tuple[Calls, bool]:
    """Name and arguments of each call, and whether the fragments contradict each other."""
    calls = ToolCalls()
    for one in fragments:
        calls.add(one)
    found = [(one["function"].get("name"), one["function"]["arguments"]) for one in calls.settled()]
    return found, calls.contradicts


TWO: Calls = [("add", '{"a":1}'), ("add", '{"a":2}')]
ADD, SUB = ("add", '{"a":1}'), ("sub", '{"b":2}')

PARALLEL: dict[str, tuple[list[JSON], Calls]] = {
    "each at its index": ([whole(*ADD, index=0, id="x"), whole(*SUB, index=1, id="y")], [ADD, SUB]),
    "all at index 0 with own ids": (
        [whole(*ADD, index=0, id="x"), whole(*SUB, index=0, id="y")],
        [ADD, SUB],
    ),
    "all at index 0 with own ids, in fragments": (
        [
            whole("add", "", index=0, id="x"),
            fragment('{"a":', index=0),
            fragment("1}", index=0),
            whole("sub", "", index=0, id="y"),
            fragment('{"b":2}', index=0),
        ],
        [ADD, SUB],
    ),
    "all at index 0 without ids": ([whole(*ADD, index=0), whole(*SUB, index=0)], [ADD, SUB]),
    "one function twice at index 0": ([whole(*TWO[0], index=0), whole(*TWO[1], index=0)], TWO),
    "no index": ([whole(*ADD, id="x"), whole(*SUB, id="y")], [ADD, SUB]),
    "no index, no id": ([whole(*ADD), whole(*SUB)], [ADD, SUB]),
    "no arguments": (
        [whole("now", "", index=0, id="x"), whole(*SUB, index=0, id="y")],
        [("now", ""), SUB],
    ),
    "interleaved at index 0": (
        [
            whole("add", '{"a":1}', index=0, id="x"),
            whole("sub", '{"b"', index=0, id="y"),
            fragment(":2}", index=0, id="y"),
        ],
        [ADD, SUB],
    ),
    "one id for both": ([whole(*ADD, index=0, id="x"), whole(*SUB, index=1, id="x")], [ADD, SUB]),
    "later index first": ([whole(*SUB, index=1, id="y"), whole(*ADD, index=0, id="x")], [ADD, SUB]),
    "id and name repeated": (
        [whole("add", '{"a"', index=0, id="x"), whole("add", ":1}", index=0, id="x")],
        [ADD],
    ),
    "name repeated, nested arguments": (
        [
            whole("add", "", index=0),
            whole("add", '{"a":', index=0),
            whole("add", "{}}", index=0),
        ],
        [("add", '{"a":{}}')],
    ),
    "empty id and name later": (
        [whole("add", '{"a":1', index=0, id="x"), whole("", "}", index=0, id="")],
        [ADD],
    ),
}


@pytest.mark.parametrize("how", PARALLEL)
def test_tool_calls_are_told_apart(how: str) -> None:
    fragments, calls = PARALLEL[how]
    assert put_together(*fragments) == (calls, False)


CONTRADICTIONS: dict[str, list[JSON]] = {
    "another id without a name": [whole("f", '{"a"', index=0, id="x"), fragment(":1}", id="y")],
    "another id within the arguments": [
        whole("f", '{"a"', index=0, id="x"),
        whole("f", ":1}", index=0, id="y"),
    ],
    "another name of one id": [whole(*ADD, index=0, id="x"), whole(*SUB, index=0, id="x")],
    "a name in two parts": [whole("get_", "", index=0), whole("weather", "{}", index=0)],
    "no name at all": [fragment("{}", index=0, id="x")],
    "an index for each fragment": [whole("f", "{", index=0, id="x"), fragment("}", index=1)],
    "another type": [whole("f", "", index=0, id="x"), fragment("{}", index=0, type="custom")],
}


@pytest.mark.parametrize("how", CONTRADICTIONS)
def test_tool_calls_that_do_not_fit_together_contradict(how: str) -> None:
    assert put_together(*CONTRADICTIONS[how])[1]


def test_custom_tool_calls_need_no_function() -> None:
    calls = ToolCalls()
    calls.add({"index": 0, "id": "x", "type": "custom", "custom": {"name": "f", "input": "a"}})
    calls.add({"index": 0, "custom": {"input": "b"}})
    custom = {"name": "f", "input": "ab"}
    assert calls.settled() == [{"id": "x", "type": "custom", "custom": custom}]
    assert not calls.contradicts


@some
@given(
    st.lists(st.tuples(st.sampled_from("fgh"), st.dictionaries(st.text(), st.integers()))),
    st.sampled_from(["index", "index 0", "no index"]),
    st.integers(0, 2**32),
)
def test_tool_calls_in_any_fragments_are_those_that_were_sent(
    wanted: list[tuple[str, JSON]], how: str, seed: int
) -> None:
    chance = Random(seed)
    sent: list[JSON] = []
    for number, (name, arguments) in enumerate(wanted):
        index: JSON = {"index": {"index": number, "index 0": 0}.get(how)}
        first, *rest = pieces(chance, json.dumps(arguments), chance.randint(1, 5))
        sent.append(whole(name, first, id=f"call-{number}", **index))
        sent += [fragment(piece, **index) for piece in rest]
    calls = [(name, json.dumps(arguments)) for name, arguments in wanted]
    assert put_together(*sent) == (calls, False)


fields: st.SearchStrategy[JSON] = st.fixed_dictionaries(
    {},
    optional={
        "index": st.sampled_from([0, 1, -1, None, "0", True]),
        "id": st.sampled_from(["x", "y", "", None, 7]),
        "type": st.sampled_from(["function", "custom", "", None]),
        "function": st.none()
        | st.just("f")
        | st.fixed_dictionaries(
            {},
            optional={
                "name": st.sampled_from(["f", "g", "", None, 1]),
                "arguments": st.sampled_from(["{}", "{", "}", "", None, {}, 3]),
            },
        ),
    },
)


@some
@given(st.lists(fields))
def test_tool_calls_take_any_fragments(fragments: list[JSON]) -> None:
    calls = ToolCalls()
    for one in fragments:
        calls.add(one)
    assert len(calls.settled()) <= len(fragments)
    assert bool(fragments) == bool(calls.settled())


def test_message_of_two_roles_contradicts() -> None:
    events = [
        {"choices": [{"index": 0, "delta": {"role": role}}]} for role in ("assistant", "user")
    ]
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events).encode()
    answer = assemble("/v1/chat/completions", body, streamed=True)
    assert answer.parts[0].doubts == ["message_contradicts"]
