"""Recorded responses of Responses, and the chat that the same engine sends for the same tokens."""

from collections.abc import Iterator
from typing import Any

import msgspec
from support.records.vllm_recordings import MORE, RecordedExchange, load

from gateway.wire.sse import Splitter

Json = Any

SAME_AS_OPENAI = {
    "text": {"format": {"type": "text"}, "verbosity": None},
    "metadata": {},
    "top_logprobs": 0,
}
"""Fields in which the engine has null, and the gateway what OpenAI has."""

OPENAI_ONLY = frozenset((
    "error", "completed_at", "conversation", "prompt_cache_key", "safety_identifier", "store",
))  # fmt: skip
"""Fields that the engine leaves out."""


def recorded(*, streamed: bool) -> list[RecordedExchange]:
    """Whole responses of the engine, by whether they are streams."""
    return [
        one
        for one in load(MORE).values()
        if one.path == "/v1/responses"
        and one.status == 200
        and not one.cut_short
        and is_stream(one) == streamed
        and b'"status":"queued"' not in one.body
    ]


def is_stream(exchange: RecordedExchange) -> bool:
    return dict(exchange.headers).get("content-type", "").startswith("text/event-stream")


def events_of(stream: bytes) -> list[Json]:
    """The data of all events; each is named after its type."""
    splitter = Splitter()
    events = [*splitter.feed(stream), *splitter.close()]
    read = [(one.event, msgspec.json.decode(one.data)) for one in events if one.data is not None]
    assert all(name == data["type"] for name, data in read)
    return [data for _, data in read]


def normal(value: Json) -> Json:
    """`value` with its ids numbered, without times, and with OpenAI's values for the engine's."""
    return _Normal().of(value)


class _Normal:
    def __init__(self) -> None:
        self._ids: dict[str, str] = {}

    def of(self, value: Json, name: str = "") -> Json:
        if isinstance(value, dict):
            return {key: self.of(one, key) for key, one in self._fields(value)}
        if isinstance(value, list):
            return [self.of(one) for one in value]
        if name in ("id", "item_id") and isinstance(value, str):
            return self._ids.setdefault(value, f"id-{len(self._ids)}")
        return 0 if name == "created_at" else value

    def _fields(self, value: Json) -> Iterator[tuple[str, Json]]:
        if value.get("object") != "response":
            yield from value.items()
            return
        for key, one in value.items():
            if key not in OPENAI_ONLY:
                yield key, SAME_AS_OPENAI.get(key) if one is None else one


def chat_stream(exchange: RecordedExchange) -> list[bytes]:
    """The data of chat's events for the tokens of a recorded stream, `[DONE]` left out."""
    return [msgspec.json.encode(one) for one in _chunks(events_of(exchange.body))]


def _chunks(events: list[Json]) -> Iterator[Json]:
    yield _chunk({"role": "assistant", "content": ""})
    number = -1
    for event in events:
        kind = event["type"].removeprefix("response.")
        if kind == "output_text.delta":
            yield _chunk({"content": event["delta"]}, _logprobs(event["logprobs"]))
        elif kind == "reasoning_text.delta":
            yield _chunk({"reasoning": event["delta"]})
        elif kind == "output_item.added" and event["item"]["type"] == "function_call":
            number += 1
            name = {"name": event["item"]["name"]}
            call = {"index": number, "id": event["item"]["call_id"], "function": name}
            yield _chunk({"tool_calls": [call]})
        elif kind == "function_call_arguments.delta":
            call = {"index": number, "function": {"arguments": event["delta"]}}
            yield _chunk({"tool_calls": [call]})
    response = events[-1]["response"]
    yield _chunk({}, finish_reason=_finish_reason(response))
    yield {"choices": [], "usage": _usage(response["usage"]), "model": response["model"]}


def _chunk(delta: Json, logprobs: Json = None, finish_reason: str | None = None) -> Json:
    choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
    return {"id": "chatcmpl-1", "model": "tiny", "choices": [choice]}


def _logprobs(tokens: list[Json]) -> Json:
    return {"content": [_with_bytes(token) for token in tokens]} if tokens else None


def _with_bytes(token: Json) -> Json:
    bytes_ = list(token["token"].encode())
    tops = [_with_bytes(top) for top in token.get("top_logprobs", ())]
    told = {**token, "bytes": bytes_}
    return {**told, "top_logprobs": tops} if "top_logprobs" in token else told


def _finish_reason(response: Json) -> str:
    return "length" if response["status"] == "incomplete" else "stop"


def _usage(usage: Json) -> Json:
    details = usage["input_tokens_details"]
    return {
        "prompt_tokens": usage["input_tokens"],
        "completion_tokens": usage["output_tokens"],
        "total_tokens": usage["total_tokens"],
        "prompt_tokens_details": {
            "cached_tokens": details["cached_tokens"],
            "created_cache_tokens": details["cache_write_tokens"],
        },
        "completion_tokens_details": {
            "reasoning_tokens": usage["output_tokens_details"]["reasoning_tokens"]
        },
    }


def chat_answer(exchange: RecordedExchange) -> bytes:
    """The chat response for the tokens of a recorded plain response."""
    response = msgspec.json.decode(exchange.body)
    message: Json = {"role": "assistant", "content": None, "tool_calls": []}
    logprobs = None
    for item in response["output"]:
        if item["type"] == "message" and item["content"]:
            message["content"] = item["content"][0]["text"]
            logprobs = _logprobs(item["content"][0]["logprobs"] or [])
        elif item["type"] == "reasoning":
            message["reasoning"] = item["content"][0]["text"]
        elif item["type"] == "function_call":
            function = {"name": item["name"], "arguments": item["arguments"]}
            call = {"id": item["call_id"], "type": "function", "function": function}
            message["tool_calls"].append(call)
    choice = {
        "index": 0,
        "message": message,
        "logprobs": logprobs,
        "finish_reason": _finish_reason(response),
    }
    made = {"model": response["model"], "choices": [choice], "usage": _usage(response["usage"])}
    return msgspec.json.encode(made)
