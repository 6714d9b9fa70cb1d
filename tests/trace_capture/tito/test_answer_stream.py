"""One choice of a stream, before a parser that holds back what may be a call."""

import re
from typing import Any

import pytest
from gateway_plugins.trace_capture.tito.answer.marks import without_hidden
from gateway_plugins.trace_capture.tito.answer.stops import cut_at
from gateway_plugins.trace_capture.tito.answer.stream import ChoiceStream
from gateway_plugins.trace_capture.tito.answer.structs import Asked, Choice
from hypothesis import assume, given
from hypothesis import strategies as st

OPEN, CLOSE = "<call>", "</call>"

pieces = st.sampled_from(["a", "b ", "<", "<c", "all>", OPEN, CLOSE, "</", "x>", "{", "]", ""])
answers = st.lists(pieces, min_size=1, max_size=14)


class Parser:
    """What an engine makes of the tokens in a state: `<call>name</call>` is a tool call."""

    def __init__(self, texts: list[str]) -> None:
        self._texts = texts

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        state, chunk = request["stream_state"], request["generate_chunk"]["choices"][0]
        before = state.get("output_token_ids", [])
        lengths = state.get("output_chunk_lens", [])
        assert sum(lengths) == len(before)
        after = [*before, *chunk["token_ids"]]
        ended = chunk["finish_reason"] is not None
        told, calls = parsed(self._text(after), ended=ended)
        was, were = parsed(self._text(before), ended=False)
        delta: dict[str, Any] = {"content": told[len(was) :]}
        delta["tool_calls"] = [
            {"index": place, "id": f"{place:016x}", "function": {"name": name, "arguments": "{}"}}
            for place, name in enumerate(calls)
            if place >= len(were)
        ]
        more = [*lengths, len(chunk["token_ids"])] if chunk["token_ids"] else lengths
        state = {**state, "output_token_ids": after, "output_chunk_lens": more}
        return {"chunk": {"choices": [{"delta": delta}]}, "stream_state": state}

    def _text(self, ids: list[int]) -> str:
        return "".join(self._texts[number] for number in ids)


def parsed(text: str, *, ended: bool) -> tuple[str, list[str]]:
    """Return what is text for certain, and the names of whole calls."""
    calls = re.findall(f"{OPEN}(.*?){CLOSE}", text)
    *said, rest = re.split(f"{OPEN}.*?{CLOSE}", text)
    if OPEN in rest:
        rest = rest[: rest.index(OPEN)]
    elif not ended:
        held = next((n for n in range(len(OPEN) - 1, 0, -1) if rest.endswith(OPEN[:n])), 0)
        rest = rest[: len(rest) - held]
    return "".join([*said, rest]), calls


def asked(*, thinks: bool = False, shows_marks: bool = False, **fields: Any) -> Asked:
    request = {"tools": [{}], **fields}
    return Asked(request, [1], True, False, thinks, shows_marks, None, False, "m")


def run(texts: list[str], waits: list[bool], **fields: Any) -> tuple[ChoiceStream, list[Any]]:
    """Feed a token for each text; the parser answers when `waits` says so, and at the end."""
    stream, parser, sent = ChoiceStream(asked(**fields)), Parser(texts), []
    for number, text in enumerate(texts):
        last = number == len(texts) - 1
        choice = Choice(0, text, [number], None, "length" if last else None)
        sent.append(stream.add(choice))
        if stream.waits and (last or not waits[number % len(waits)]):
            piece, request = stream.take()
            sent.append(stream.parsed(piece, parser.answer(request)))
    return stream, [one for one in sent if one is not None]


@given(answers, st.lists(st.booleans(), min_size=1))
def test_a_stream_says_what_the_parser_says_of_the_whole(
    texts: list[str], waits: list[bool]
) -> None:
    stream, sent = run(texts, waits)
    told, calls = parsed("".join(texts), ended=True)
    message = stream.message
    if calls:
        assert message["content"] == (told or None)
    else:
        # Without a call all is text, an open mark too: so says the engine's text.
        assert message["content"] == ("".join(texts) or None)
    names = [call["function"]["name"] for call in message.get("tool_calls", ())]
    assert names == calls
    assert "".join(one.delta.get("content", "") for one in sent) == (message["content"] or "")
    assert [number for one in sent for number in one.token_ids] == list(range(len(texts)))
    assert sent[-1].finish_reason == "length"


@given(st.lists(st.sampled_from(["a", "b ", ""]), min_size=1, max_size=9))
def test_text_that_cannot_be_a_mark_is_sent_at_once(texts: list[str]) -> None:
    stream, sent = run(texts, [True])
    assert not stream.waits
    assert [one.delta.get("content", "") for one in sent] == texts


def test_after_a_false_mark_text_is_sent_at_once_again() -> None:
    texts = ["a", " < ", "b", "c"]
    stream, parser = ChoiceStream(asked()), Parser(texts)
    assert stream.add(Choice(0, "a", [0])) is not None
    assert stream.add(Choice(0, " < ", [1])) is None
    piece, request = stream.take()
    assert stream.parsed(piece, parser.answer(request)).delta == {"content": " < "}
    assert stream.add(Choice(0, "b", [2])) is None  # the engine has to say that it holds nothing
    piece, request = stream.take()
    assert stream.parsed(piece, parser.answer(request)).delta == {"content": "b"}
    at_once = stream.add(Choice(0, "c", [3]))
    assert at_once is not None
    assert at_once.delta == {"content": "c"}


@given(
    st.lists(st.sampled_from(["a", "b ", "S", "ST", "TO", "<", OPEN, CLOSE]), max_size=9),
    st.sampled_from(["STOP", "xSTOP!", "OP"]),
    st.lists(st.booleans(), min_size=1),
)
def test_a_stop_string_is_not_sent(texts: list[str], last: str, waits: list[bool]) -> None:
    stop = "STOP" if "STOP" in last else "OP"
    texts = [*texts, last]
    whole = "".join(texts)
    at = whole.find(stop)
    assume(at >= len(whole) - len(last))  # else the engine would have stopped before
    stream, parser = ChoiceStream(asked(stop=[stop])), Parser(texts)
    sent = []
    for number in range(len(texts)):
        ended = number == len(texts) - 1
        # The text lags behind the ids; all of it comes with the last one.
        end = ("stop", stop) if ended else (None, None)
        assert stream.add(Choice(0, whole[:at] if ended else "", [number], None, *end)) is None
        if ended or not waits[number % len(waits)]:
            piece, request = stream.take()
            sent.append(stream.parsed(piece, parser.answer(request)).delta.get("content", ""))
    told, calls = parsed(whole[:at], ended=True)
    assert "".join(sent) == (stream.message["content"] or "")
    if calls:
        assert stream.message["content"] == (told or None)
    else:
        assert stream.message["content"] == (whole[:at] or None)


@pytest.mark.parametrize(
    ("text", "whole", "keep", "expected"),
    [
        ("so be it", "mark so b", False, "so b"),
        ("so be it", "mark so be", True, "so be"),
        ("e, then e", "mark e, then ", False, "e, then "),
        ("nothing", "", False, "nothing"),
    ],
)
def test_a_text_is_cut_where_the_engine_stopped(
    text: str, whole: str, keep: bool, expected: str
) -> None:
    assert cut_at(text, "e", whole, keep=keep) == expected


def test_calls_end_a_turn_as_calls() -> None:
    texts = [OPEN, "look", CLOSE, ""]
    stream, parser = ChoiceStream(asked()), Parser(texts)
    for number, text in enumerate(texts):
        stream.add(Choice(0, text, [number], None, "stop" if text == "" else None))
    piece, request = stream.take()
    assert request["generate_chunk"]["choices"][0]["token_ids"] == [0, 1, 2]  # without the end
    sent = stream.parsed(piece, parser.answer(request))
    assert sent.finish_reason == "tool_calls"
    assert sent.delta["tool_calls"][0]["id"] == f"chatcmpl-tool-{0:016x}"


def pieces_of(choices: list[Choice], *, shows_marks: bool) -> list[list[int]]:
    """Return the ids of each piece, if the parser is only asked once all have come."""
    stream = ChoiceStream(asked(thinks=True, shows_marks=shows_marks))
    for choice in choices:
        assert stream.add(choice) is None
    found = []
    while stream.waits:
        piece, _ = stream.take()
        found.append(piece.ids)
    return found


def test_a_mark_of_reasoning_is_parsed_alone() -> None:
    texts = ["a", "b", "<think>", "c", "d"]
    choices = [Choice(0, text, [number]) for number, text in enumerate(texts)]
    assert pieces_of(choices, shows_marks=True) == [[0, 1], [2], [3, 4]]


def test_a_mark_of_reasoning_is_parsed_alone_if_it_came_with_other_tokens() -> None:
    choices = [Choice(0, "a", [0]), Choice(0, "b</think>c", [1, 2, 3])]
    assert pieces_of(choices, shows_marks=True) == [[0], [1], [2], [3]]


def test_a_mark_that_is_hidden_is_parsed_alone() -> None:
    choices = [Choice(0, "a", [0]), Choice(0, "", [1]), Choice(0, "b", [2])]
    assert pieces_of(choices, shows_marks=False) == [[0], [1], [2]]
    assert pieces_of(choices, shows_marks=True) == [[0, 1, 2]]


def test_special_tokens_stay_hidden() -> None:
    stream = ChoiceStream(asked(thinks=True))
    stream.add(Choice(0, "a <b>", [0, 1]))
    piece, _ = stream.take()
    said = {"choices": [{"delta": {"reasoning": "a<|x|>", "content": " <b>[END]"}}]}
    sent = stream.parsed(piece, {"chunk": said})
    assert sent.delta == {"reasoning": "a", "content": " <b>"}


@pytest.mark.parametrize(
    ("text", "whole", "expected"),
    [
        ("a<|x|>b", "ab", "ab"),
        ("a<b>", "a<b>", "a<b>"),
        ("[1] <x> < y >", "[1]  < y >", "[1]  < y >"),
        ("<" * 99, "", "<" * 99),
    ],
)
def test_only_what_the_text_does_not_have_is_hidden(text: str, whole: str, expected: str) -> None:
    assert without_hidden(text, whole) == expected


def test_thoughts_are_sent_at_once_but_for_tokens_without_a_text() -> None:
    stream = ChoiceStream(asked(thinks=True))
    stream.add(Choice(0, "a", [0]))
    piece, _ = stream.take()
    stream.parsed(piece, {"chunk": {"choices": [{"delta": {"reasoning": "a"}}]}})
    sent = stream.add(Choice(0, "b", [1]))
    assert sent is not None
    assert sent.delta == {"reasoning": "b"}
    assert stream.add(Choice(0, "cd", [2, 3])) is None  # one of them may be hidden
    piece, _ = stream.take()
    stream.parsed(piece, {"chunk": {"choices": [{"delta": {"reasoning": "cd"}}]}})
    assert stream.add(Choice(0, "", [4])) is None  # what ends the thoughts may be hidden
    piece, _ = stream.take()
    stream.parsed(piece, {"chunk": {"choices": [{"delta": {}}]}})
    assert stream.add(Choice(0, "e", [5])) is None


def test_the_parser_reads_what_came_before_in_few_pieces() -> None:
    texts = ["<", "a", "<", "<think>", "b", "<", "c"]
    stream, parser = ChoiceStream(asked(thinks=True, shows_marks=True)), Parser(texts)
    for number, text in enumerate(texts):
        stream.add(Choice(0, text, [number]))
        if stream.waits:
            piece, request = stream.take()
            stream.parsed(piece, parser.answer(request))
    stream.add(Choice(0, "<", [3]))
    lengths = stream.take()[1]["stream_state"]["output_chunk_lens"]
    assert lengths == [3, 1, 3]
