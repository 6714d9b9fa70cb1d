"""Random answers of chat and completions, and the same ones as streams."""

import json
from itertools import pairwise
from random import Random
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

JSON = dict[str, Any]

TEXTS = st.text(st.characters(codec="utf-8"), max_size=4)
LOGPROBS = st.none() | st.sampled_from([-9999.0, 0.0, -0.5]) | st.floats(-50, 0)
FINISHES = st.sampled_from(["stop", "length", "tool_calls", "abort"])
some = settings(max_examples=50)


def slim(value: Any) -> Any:
    """`value` without what is null or empty: there plain answers and streams differ."""
    if isinstance(value, dict):
        return {key: slim(item) for key, item in value.items() if item not in (None, "", [], {})}
    return [slim(item) for item in value] if isinstance(value, list) else value


@st.composite
def entries(draw: st.DrawFn) -> JSON:
    """A token of a chat answer's logprobs, as vLLM sends it in the most cases."""
    text = draw(TEXTS)
    entry: JSON = {"token": text, "logprob": draw(LOGPROBS), "bytes": list(text.encode())}
    entry["top_logprobs"] = []
    if draw(st.integers(0, 9)) == 0:
        entry["bytes"] = draw(st.sampled_from([None, [], [255], [-1], [1000]]))
    if draw(st.integers(0, 9)) == 0:
        entry["top_logprobs"] = [{"token": text, "logprob": -1.0, "bytes": None}]
    return entry


@st.composite
def calls(draw: st.DrawFn) -> JSON:
    function = {
        "name": draw(st.text(min_size=1, max_size=5)),
        "arguments": draw(st.text(max_size=9)),
    }
    return {"id": f"call-{draw(st.integers(0, 999))}", "type": "function", "function": function}


@st.composite
def chat_choices(draw: st.DrawFn, index: int) -> JSON:
    tokens = draw(st.lists(st.tuples(st.integers(0, 2**31 - 1), entries()), max_size=4))
    message: JSON = {"role": "assistant", "content": draw(st.text(max_size=9))}
    for name in ("reasoning", "reasoning_content", "refusal"):
        if draw(st.integers(0, 3)) == 0:
            message[name] = draw(st.text(min_size=1, max_size=9))
    if tools := draw(st.lists(calls(), max_size=2)):
        message["tool_calls"] = tools
    return {
        "index": index,
        "message": message,
        "logprobs": {"content": [entry for _, entry in tokens]},
        "finish_reason": draw(FINISHES),
        "stop_reason": draw(st.none() | st.integers(0, 9) | st.just("END")),
        "token_ids": [id_ for id_, _ in tokens],
    }


@st.composite
def completion_choices(draw: st.DrawFn, index: int) -> JSON:
    tokens = draw(st.lists(st.tuples(TEXTS, LOGPROBS), max_size=4))
    offsets = [0]
    for text, _ in tokens:
        offsets.append(offsets[-1] + len(text))
    tops = [{text: value} for text, value in tokens]
    if draw(st.integers(0, 4)) == 0:
        tops = [{**top, "other": -3.5} for top in tops]
    return {
        "index": index,
        "text": draw(st.text(max_size=9)),
        "logprobs": {
            "tokens": [text for text, _ in tokens],
            "token_logprobs": [value for _, value in tokens],
            "text_offset": offsets[:-1] if draw(st.booleans()) else [7] * len(tokens),
            "top_logprobs": tops,
        },
        "finish_reason": draw(FINISHES),
        "stop_reason": None,
        "token_ids": draw(st.lists(st.integers(0, 999), max_size=4)),
        "prompt_token_ids": draw(st.lists(st.integers(0, 999), min_size=1, max_size=4)),
    }


@st.composite
def answers(draw: st.DrawFn, *, chat: bool) -> JSON:
    """A plain answer with one to three choices."""
    kind = chat_choices if chat else completion_choices
    choices = [draw(kind(index)) for index in range(draw(st.integers(1, 3)))]
    count = sum(len(choice["token_ids"]) for choice in choices)
    answer: JSON = {
        "id": "answer-1",
        "object": "chat.completion" if chat else "text_completion",
        "created": 1,
        "model": "tiny",
        "choices": choices,
        "usage": {"prompt_tokens": 3, "completion_tokens": count, "total_tokens": 3 + count},
    }
    if chat:
        answer["prompt_token_ids"] = draw(st.lists(st.integers(0, 999), min_size=1, max_size=4))
    if draw(st.integers(0, 3)) == 0:
        answer["unheard_of"] = {"of": [1]}
        choices[0]["unheard_of"] = "too"
    return answer


def pieces(chance: Random, whole: Any, count: int) -> list[Any]:
    """`count` slices that make up `whole`, some of them empty."""
    cuts = sorted(chance.choices(range(len(whole) + 1), k=count - 1))
    bounds = [0, *cuts, len(whole)]
    return [whole[start:end] for start, end in pairwise(bounds)]


def deltas(chance: Random, message: JSON, count: int) -> list[JSON]:
    """The deltas of a message, at least one for each of `count` events."""
    found: list[JSON] = [{} for _ in range(count)]
    for name in set(message) - {"role", "tool_calls"}:
        for delta, piece in zip(found, pieces(chance, message[name], count), strict=True):
            if piece or chance.random() < 0.5:
                delta[name] = piece
    for index, call in enumerate(message.get("tool_calls", [])):
        function = call["function"]
        named = {"name": function["name"], "arguments": ""}
        first = {"index": index, **call, "function": named}
        rest = [
            {"index": index, "function": {"arguments": piece}}
            for piece in pieces(chance, function["arguments"], count)
        ]
        for delta, fragment in zip(found, rest, strict=True):
            delta.setdefault("tool_calls", []).append(fragment)
        found[0]["tool_calls"].insert(-1, first)
    return [{"role": message["role"], "content": ""}, *found]


def chunks(chance: Random, choice: JSON, *, chat: bool) -> list[JSON]:
    """A choice as it comes in a stream, the tokens in any grouping."""
    count = chance.randint(1, 4)
    found: list[JSON] = [{"index": choice["index"], "finish_reason": None} for _ in range(count)]
    scored = len(next(iter(choice["logprobs"].values())))
    cut = pieces(chance, range(scored), count)
    ids = choice["token_ids"]
    aligned = len(ids) == scored
    lists = [[ids[place] for place in places] for places in cut] if aligned else None
    for chunk, some_ids in zip(found, lists or pieces(chance, ids, count), strict=True):
        chunk["token_ids"] = some_ids
    for chunk, places in zip(found, cut, strict=True):
        chunk["logprobs"] = {
            name: [values[place] for place in places] for name, values in choice["logprobs"].items()
        }
    if chat:
        first, *rest = deltas(chance, choice["message"], count)
        found = [{**chunk, "delta": delta} for chunk, delta in zip(found, rest, strict=True)]
        found.insert(0, {"index": choice["index"], "delta": first, "logprobs": None})
    else:
        texts = pieces(chance, choice["text"], count)
        found = [{**chunk, "text": text} for chunk, text in zip(found, texts, strict=True)]
        found[0]["prompt_token_ids"] = choice["prompt_token_ids"]
    found[-1] |= {"finish_reason": choice["finish_reason"], "stop_reason": choice["stop_reason"]}
    if "unheard_of" in choice:
        found[-1]["unheard_of"] = choice["unheard_of"]
    return found


def events(chance: Random, answer: JSON, *, chat: bool) -> list[JSON]:
    """A plain answer as the events of a stream, its choices interleaved."""
    head = {name: answer[name] for name in ("id", "created", "model")}
    head["object"] = "chunk"
    waiting = [chunks(chance, choice, chat=chat) for choice in answer["choices"]]
    found: list[JSON] = []
    seen: set[int] = set()
    while waiting:
        queue = waiting[chance.randint(0, len(waiting) - 1)]
        chunk = queue.pop(0)
        event = {**head, "choices": [chunk]}
        if chat and chunk["index"] not in seen:
            event["prompt_token_ids"] = answer["prompt_token_ids"]
        seen.add(chunk["index"])
        found.append(event)
        waiting = [queue for queue in waiting if queue]
    last = {"unheard_of": answer["unheard_of"]} if "unheard_of" in answer else {}
    return [*found, {**head, "choices": [], "usage": answer["usage"], **last}]


def framed(chance: Random, data: list[str]) -> bytes:
    """A stream of events with this data, in any of the ways that the format allows."""
    end = chance.choice(["\n", "\r\n", "\r"])
    frames = []
    for one in data:
        prefix = chance.choice(["data: ", "data:", ": hello\ndata: ", "id: 7\ndata: "])
        frames.append((prefix + one).replace("\n", end) + 2 * end)
        if chance.randint(0, 5) == 0:
            frames.append(": still here" + 2 * end)
    text = "".join(frames)
    if chance.random() < 0.5:
        text = text.removesuffix(end)
    return (chance.choice(["", "\ufeff"]) + text).encode()


@st.composite
def exchanges(draw: st.DrawFn, *, chat: bool) -> tuple[bytes, bytes]:
    """An answer, plain and as a stream."""
    answer = draw(answers(chat=chat))
    chance = Random(draw(st.integers(0, 2**32)))
    ascii_only = chance.random() < 0.5
    parts = events(chance, answer, chat=chat)
    data = [json.dumps(one, ensure_ascii=ascii_only) for one in parts]
    return json.dumps(answer).encode(), framed(chance, [*data, "[DONE]"])
