"""What the events of a `Generate` say, and what a recorded response says, in the same form."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
from support.records.vllm_recordings import RecordedExchange

from gateway.wire.apis.registry import dialect_of


class Said(msgspec.Struct):
    """One choice; a tool call is its name and its arguments, by its index."""

    text: str = ""
    reasoning: str = ""
    ids: list[int] = []
    logprobs: list[float | None] = []
    finish: list[tuple[str, str | int | None]] = []
    tools: dict[int, tuple[str, str]] = {}

    def add_tool(self, index: int, name: str, arguments: str) -> None:
        known = self.tools.get(index, ("", ""))
        self.tools[index] = (known[0] + name, known[1] + arguments)


def data_of(exchange: RecordedExchange) -> Iterator[bytes]:
    """The data of each event, read in the plainest way; that of `[DONE]` left out."""
    for frame in exchange.body.replace(b"\r\n", b"\n").split(b"\n\n"):
        lines = [line for line in frame.split(b"\n") if line.startswith(b"data:")]
        data = b"\n".join(line.removeprefix(b"data:").removeprefix(b" ") for line in lines)
        if lines and data != b"[DONE]":
            yield data


def is_stream(exchange: RecordedExchange) -> bool:
    return exchange.body.startswith((b"data:", b"event:", b": "))


def recorded(exchange: RecordedExchange) -> tuple[Mapping[int, Said], Mapping[str, Any] | None]:
    """What the worker has said, choice by choice, and its usage."""
    dialect = dialect_of(exchange.path)
    assert dialect is not None
    streams = is_stream(exchange)
    choices: defaultdict[int, Said] = defaultdict(Said)
    usage = None
    for data in data_of(exchange) if streams else [exchange.body]:
        delta = dialect.read_event(data) if streams else dialect.read_answer(data)
        for choice in delta.choices:
            one = choices[choice.index]
            one.text += choice.text
            one.ids += choice.token_ids
            one.logprobs += choice.logprobs
            if choice.finish_reason:
                one.finish.append((choice.finish_reason, choice.stop_reason))
        whole = msgspec.json.decode(data)
        usage = whole.get("usage") or usage
        for choice in whole.get("choices") or ():
            _add_message(
                choices[choice["index"]], choice.get("delta") or choice.get("message") or {}
            )
    return choices, usage


def _add_message(one: Said, message: Mapping[str, Any]) -> None:
    one.reasoning += message.get("reasoning") or message.get("reasoning_content") or ""
    for place, call in enumerate(message.get("tool_calls") or ()):
        function = call.get("function") or {}
        index = call.get("index", place)
        one.add_tool(index, function.get("name") or "", function.get("arguments") or "")


def heard(events: Iterable[Any]) -> Mapping[int, Said]:
    """What the events say, choice by choice."""
    choices: defaultdict[int, Said] = defaultdict(Said)
    for event in events:
        match event.WhichOneof("event"):
            case "delta":
                assert not choices[event.delta.index].finish
                _add_delta(choices[event.delta.index], event.delta)
            case "finish":
                finish = event.finish
                matched = finish.WhichOneof("matched")
                found = None if matched is None else getattr(finish, matched)
                choices[finish.index].finish.append((finish.raw_reason, found))
    return choices


def _add_delta(one: Said, delta: Any) -> None:
    one.text += delta.text
    one.reasoning += delta.reasoning
    one.ids += delta.token_ids
    has = delta.has_logprob or [True] * len(delta.logprobs)
    pairs = zip(delta.logprobs, has, strict=True)
    one.logprobs += [value if known else None for value, known in pairs]
    for call in delta.tool_calls:
        one.add_tool(call.index, call.name, call.arguments)
