"""What a caller makes of an answer: its pieces, and whether it is whole."""

from collections import defaultdict
from typing import Any

import msgspec
from accounting.tap import Said

from soak.calls import Ask
from soak.engine import Request, fingerprint
from soak.facts import Asked, Verdict

DONE = b"data: [DONE]\n\n"
STREAM = b"text/event-stream"


class Delta(msgspec.Struct, frozen=True):
    content: str | None = None
    tool_calls: list[dict[str, Any]] = []


class Choice(msgspec.Struct):
    """A message, or a piece of one."""

    index: int = 0
    delta: Delta = Delta()
    message: Delta = Delta()
    text: str = ""
    finish_reason: str | None = None
    token_ids: list[int] | None = None
    logprobs: Any = None

    @property
    def said(self) -> str:
        return self.text + "".join(_said(one) for one in (self.delta, self.message))


class Body(msgspec.Struct):
    """A whole answer, or an event of one."""

    choices: list[Choice] = []
    usage: dict[str, Any] | None = None
    system_fingerprint: str = ""
    prompt_token_ids: list[int] | None = None


class Error(msgspec.Struct):
    code: str | int | None = None
    gateway_code: str | None = None


class Refusal(msgspec.Struct):
    error: Error


def _said(delta: Delta) -> str:
    arguments = (call["function"]["arguments"] for call in delta.tool_calls)
    called = "".join(msgspec.json.decode(one)["text"] for one in arguments)
    return (delta.content or "") + called


def heard(ask: Ask, said: Said, verdict: Verdict) -> Asked:
    streams = said.headers.get(b"content-type", b"").startswith(STREAM)
    events = bodies_of(bytes(said.body)) if streams else []
    fault = ""
    if verdict == "whole" and ask.kind == "answered":
        fault = fault_of(ask, said, events, streams=streams)
    return Asked(
        call_id=ask.call_id,
        key=ask.key,
        kind=ask.kind,
        verdict=verdict,
        status=said.status,
        code=code_of(said) if verdict in ("error", "broken") else "",
        session=ask.session,
        pieces=sum(bool(choice.said) for event in events for choice in event.choices),
        fault=fault,
    )


def bodies_of(body: bytes) -> list[Body]:
    """The events that came whole, but for the gateway's own."""
    events = body.split(b"\n\n")[:-1]
    data = [one.removeprefix(b"data: ") for one in events if one.startswith(b"data: {")]
    return [msgspec.json.decode(one, type=Body) for one in data]


def fault_of(ask: Ask, said: Said, events: list[Body], *, streams: bool) -> str:
    """What is wrong with an answer that ended as if it were whole; empty: nothing."""
    request = msgspec.json.decode(ask.body, type=Request)
    if streams is not request.stream:
        return "not as asked: a stream, or none"
    if streams and not said.body.endswith(DONE):
        return "no [DONE]"
    found = events if streams else [msgspec.json.decode(said.body, type=Body)]
    told = any(event.usage is not None for event in found)
    if told is not (request.tells_usage or not streams):
        return "usage told to who did not ask, or not told"
    if any(map(_is_injected, found)):
        return "what was injected is there"
    return _unlike(found, request.n)


def text_of(said: Said) -> str:
    """What the first choice says, as far as it came; empty where that is not known."""
    streams = said.headers.get(b"content-type", b"").startswith(STREAM)
    if not streams and not (said.whole and said.status == 200):
        return ""
    body = bytes(said.body)
    events = bodies_of(body) if streams else [msgspec.json.decode(body, type=Body)]
    return "".join(one.said for event in events for one in event.choices if one.index == 0)


def _is_injected(event: Body) -> bool:
    details = (bool(one.token_ids) or bool(one.logprobs) for one in event.choices)
    return bool(event.prompt_token_ids) or any(details)


def _unlike(events: list[Body], choices: int) -> str:
    texts: defaultdict[int, str] = defaultdict(str)
    for event in events:
        for choice in event.choices:
            texts[choice.index] += choice.said
    ended = sum(bool(choice.finish_reason) for event in events for choice in event.choices)
    whole = fingerprint([texts[index] for index in range(choices)])
    if ended != choices or {event.system_fingerprint for event in events} != {whole}:
        return f"not the whole answer: {ended} ends, {sum(map(len, texts.values()))} characters"
    return ""


def code_of(said: Said) -> str:
    """What an answer that is not whole says of why."""
    _, _, told = bytes(said.body).partition(b"event: error\ndata: ")
    try:
        error = msgspec.json.decode(told or said.body, type=Refusal).error
        return str(error.gateway_code or error.code)
    except msgspec.DecodeError:
        return ""
