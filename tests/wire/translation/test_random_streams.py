"""Whatever chat an engine streams, both APIs get a sound stream of the same, or a failed one."""

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.translation.messages.request import PLAIN_CHAT
from gateway.wire.translation.messages.translator import messages_as_chat
from gateway.wire.translation.responses.translator import responses_as_chat
from gateway.wire.translation.translation import ResponseTranslator

Json = dict[str, Any]

TEXTS = st.sampled_from(
    ["", " ", "Hi", "\u00e9\u4e2d\U0001f600", '"\\', "\0\x7f\n\u2028", "\ud83d", "x" * 9_000]
)
NAMES = st.sampled_from(["f", "g", "", None])
IDS = st.sampled_from(["a", "b", "", None])
ARGUMENTS = st.sampled_from(["", "{", "}", '{"a": "', "\u00e9", '"}', None, "\ud83d"])
NUMBERS = st.sampled_from([0, 0, 0, 1, 2, 7, 1 << 40])
PART_OF_CALL = st.fixed_dictionaries(
    {"index": NUMBERS},
    optional={
        "id": IDS,
        "type": st.just("function"),
        "function": st.none()
        | st.fixed_dictionaries({}, optional={"name": NAMES, "arguments": ARGUMENTS}),
    },
)
DELTAS = st.one_of(
    st.fixed_dictionaries({"content": TEXTS}),
    st.fixed_dictionaries({"reasoning": TEXTS}),
    st.fixed_dictionaries({"tool_calls": st.lists(PART_OF_CALL, max_size=3)}),
    st.fixed_dictionaries(
        {},
        optional={
            "role": st.just("assistant"),
            "content": st.none() | TEXTS,
            "reasoning": st.none() | TEXTS,
            "reasoning_content": st.none() | TEXTS,
            "refusal": st.none() | TEXTS,
            "tool_calls": st.none(),
        },
    ),
)


def call_of(number: int, id_: str | None, name: str, pieces: list[str]) -> list[Json]:
    """The deltas of one call, as engines send them."""
    first = {"index": number, "id": id_, "function": {"name": name, "arguments": ""}}
    rest = [{"index": number, "function": {"arguments": piece}} for piece in pieces]
    return [{"tool_calls": [one]} for one in (first, *rest)]


WHOLE_CALLS = st.builds(
    call_of, NUMBERS, IDS, st.sampled_from(["f", "g"]), st.lists(ARGUMENTS.filter(bool), max_size=3)
)
GROUPS = st.lists(WHOLE_CALLS | st.lists(DELTAS, max_size=3), max_size=4)
TOKENS = st.fixed_dictionaries({"token": TEXTS, "logprob": st.just(-0.5), "bytes": st.none()})
LOGPROBS = st.none() | st.fixed_dictionaries({"content": st.none() | st.lists(TOKENS, max_size=2)})
LASTS = st.fixed_dictionaries(
    {"finish_reason": st.sampled_from(["stop", "stop", "length", "tool_calls", "abort", "odd"])},
    optional={"delta": DELTAS, "stop_reason": st.sampled_from([None, 7, "}"])},
)
USAGES = st.sampled_from(
    [
        None,
        {},
        {"prompt_tokens": 3, "completion_tokens": 2},
        {"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 9}},
        {"prompt_tokens": None, "completion_tokens_details": None},
        {"prompt_tokens": "three"},
        "none",
        7,
    ]
)
OTHER_CHOICE = {"index": 1, "delta": {"content": "OTHER"}, "finish_reason": "length"}
RARE: st.SearchStrategy[Any] = st.sampled_from(
    [
        *([None] * 24),
        {"error": {"message": "died", "code": 500}},
        {"error": "died"},
        {"object": "ping"},
        {"choices": None},
        {"choices": [OTHER_CHOICE]},
        [],
        7,
    ]
)


@st.composite
def streams(draw: st.DrawFn) -> list[Any]:
    """Deltas, a finish reason, a usage; once in a while something odd, or no finish reason."""
    stream: list[Any] = []
    for delta in [delta for group in draw(GROUPS) for delta in group]:
        choices = [{"index": 0, "delta": delta, "logprobs": draw(LOGPROBS)}]
        choices[draw(st.integers(0, 1)) :] += draw(st.sampled_from([[], [], [], [OTHER_CHOICE]]))
        stream.append({"id": "c", "model": "m", "choices": choices, "usage": draw(USAGES)})
    if draw(st.sampled_from([True] * 9 + [False])):
        stream.append({"choices": [{"index": 0, **draw(LASTS)}]})
    stream.append({"choices": [], "usage": draw(USAGES)})
    if (odd := draw(RARE)) is not None:
        stream.insert(draw(st.integers(0, len(stream))), odd)
    return stream


def messages() -> ResponseTranslator:
    asked = {
        "model": "m",
        "max_tokens": 5,
        "stream": True,
        "stop_sequences": ["x"],
        "messages": [{"role": "user", "content": "x"}],
    }
    return messages_as_chat(json.dumps(asked).encode(), PLAIN_CHAT).response


def responses() -> ResponseTranslator:
    tools = [{"type": "function", "name": "f"}, {"type": "custom", "name": "g"}]
    include = ["message.output_text.logprobs", "reasoning.encrypted_content"]
    asked = {"model": "m", "input": "x", "stream": True, "tools": tools, "include": include}
    return responses_as_chat(json.dumps(asked).encode()).response


def told(way: ResponseTranslator, stream: Iterable[object]) -> list[Json]:
    out = b"".join([way.event(json.dumps(one).encode()) for one in stream]) + way.end(done=True)
    events = []
    for event in out.decode().split("\n\n")[:-1]:
        name, data = event.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == "event: " + events[-1]["type"]
    return events


def first_choices(stream: Iterable[object]) -> list[Json]:
    chunks = [one for one in stream if isinstance(one, dict)]
    several = [[c for c in one.get("choices") or () if c["index"] == 0] for one in chunks]
    return [choices[0] for choices in several if choices]


def said(stream: list[object], *names: str) -> str:
    """All that the first choice says in the first of these fields that has a text."""
    deltas = [choice.get("delta") or {} for choice in first_choices(stream)]
    return "".join(next(filter(None, map(delta.get, names)), "") for delta in deltas)


def texts_of(stream: list[object]) -> str:
    """Texts and refusals, which are texts in Messages."""
    deltas = [choice.get("delta") or {} for choice in first_choices(stream)]
    return "".join((one.get("content") or "") + (one.get("refusal") or "") for one in deltas)


def readable(text: str) -> str:
    """With U+FFFD in the place of each half of a surrogate pair."""
    return "".join("\ufffd" if "\ud800" <= one <= "\udfff" else one for one in text)


@given(stream=streams())
def test_messages_are_sound_and_say_what_the_engine_said(stream: list[object]) -> None:
    events = told(way := messages(), stream)
    kinds = Counter(event["type"] for event in events)
    ends = kinds["message_stop"] + kinds["error"]
    assert ends == 1
    assert kinds["message_start"] <= 1
    assert events[-1]["type"] in ("message_stop", "error")
    blocks: list[Json] = []
    is_open = False
    for event in events:
        kind = event["type"]
        if kind == "content_block_start":
            assert (is_open, event["index"]) == (False, len(blocks))
            blocks.append({**event["content_block"], "deltas": []})
            is_open = True
        elif kind.startswith("content_block"):
            assert (is_open, event["index"]) == (True, len(blocks) - 1)
            is_open = kind != "content_block_stop"
            blocks[-1]["deltas"] += [event["delta"]] if is_open else []
    if kinds["error"]:
        return
    assert way.failure is None
    assert not is_open
    assert [event["type"] for event in events][-2:] == ["message_delta", "message_stop"]
    assert joined(blocks, "text") == readable(texts_of(stream))
    assert joined(blocks, "thinking") == readable(said(stream, "reasoning", "reasoning_content"))
    assert all(b["deltas"][-1]["type"] == "signature_delta" for b in of_type(blocks, "thinking"))
    assert all(one["deltas"] for one in of_type(blocks, "text"))
    assert Counter(arguments_of(stream)) == Counter(joined(blocks, "partial_json"))


def of_type(blocks: list[Json], kind: str) -> list[Json]:
    return [block for block in blocks if block["type"] == kind]


def joined(blocks: list[Json], field: str) -> str:
    return "".join(one.get(field, "") for block in blocks for one in block["deltas"])


def arguments_of(stream: list[object]) -> str:
    deltas = [choice.get("delta") or {} for choice in first_choices(stream)]
    calls = [one for delta in deltas for one in delta.get("tool_calls") or ()]
    functions = [call.get("function") or {} for call in calls]
    return readable("".join(function.get("arguments") or "" for function in functions))


@given(stream=streams())
def test_responses_are_sound_and_say_what_the_engine_said(stream: list[object]) -> None:
    events = told(way := responses(), stream)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds[:2] == ["created", "in_progress"]
    assert kinds.count("completed") + kinds.count("failed") == 1
    assert kinds[-1] in ("completed", "failed")
    output = events[-1]["response"]["output"]
    assert output == items_of(events, whole=kinds[-1] == "completed")
    if kinds[-1] == "failed":
        assert events[-1]["response"]["status"] == "failed"
        return
    assert way.failure is None
    parts = [part for item in output for part in item.get("content") or ()]
    texts = {
        kind: "".join(p[field] for p in parts if p["type"] == kind) for kind, field in TEXTS_OF
    }
    assert texts["refusal"] == readable(said(stream, "refusal"))
    assert texts["output_text"] == readable(said(stream, "content"))
    assert texts["reasoning_text"] == readable(said(stream, "reasoning", "reasoning_content"))
    told_arguments = [one.get("arguments", "") for one in output]
    if not any(one["type"] == "custom_tool_call" for one in output):
        assert "".join(told_arguments) == arguments_of(stream)


TEXTS_OF = (("output_text", "text"), ("reasoning_text", "text"), ("refusal", "refusal"))
DONES = ("text", "arguments", "input", "refusal")


def items_of(events: list[Json], *, whole: bool) -> list[Json]:
    """The items that are done; each was added before, and nothing came after it."""
    done: list[Json] = []
    open_item: Json | None = None
    parts, deltas = 0, ""
    for event in events:
        kind = event["type"].removeprefix("response.")
        if kind == "output_item.added":
            assert open_item is None
            assert event["output_index"] == len(done)
            open_item, parts, deltas = event["item"], 0, ""
        elif kind == "output_item.done":
            assert open_item is not None
            assert (event["item"]["id"], event["output_index"]) == (open_item["id"], len(done))
            assert parts == 0
            done.append(event["item"])
            open_item = None
        elif "item_id" in event:
            assert open_item is not None
            assert (event["item_id"], event["output_index"]) == (open_item["id"], len(done))
            parts += (kind == "content_part.added") - (kind == "content_part.done")
            deltas += event.get("delta", "")
            assert all(event[name] == deltas for name in DONES if name in event)
    assert open_item is None or not whole
    return done
