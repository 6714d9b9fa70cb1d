"""From the response of a chat or of a completion to a stream of GenerateEvents."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

from gateway_plugins.grpc.edge.answers import Asked, BadAnswer, Begun, Broken, Unsupported
from gateway_plugins.grpc.messages import Messages
from gateway_plugins.grpc.services.generate.choice import Choosing, End, Gained
from gateway_plugins.grpc.services.generate.prompt import prompt_events
from gateway_plugins.grpc.services.generate.request import Generation, Wanted
from gateway_plugins.grpc.services.generate.response import (
    Choice,
    PromptLogprobs,
    Response,
    Tokens,
    decode,
)

REASONS: Mapping[str, str] = {
    "stop": "FINISH_REASON_STOP",
    "length": "FINISH_REASON_LENGTH",
    "tool_calls": "FINISH_REASON_TOOL_CALLS",
    "content_filter": "FINISH_REASON_CONTENT_FILTER",
    "abort": "FINISH_REASON_ABORT",
}

MAX_TOKENS, MAX_TOKENS_WITH_TOP = 8_192, 512
"""Maximum tokens of one message: clients refuse messages above 4 MiB if they are not told else."""

MAX_CHOICES = 16_384
"""Maximum choices of a response: vLLM makes no more."""

MAX_TEXT = 512 * 1024
"""Maximum characters of one message's text."""


class GenerateAnswer:
    """Makes the events of one response."""

    def __init__(self, messages: Messages, started: float) -> None:
        self.finish_reason = ""
        self.prompt_tokens = self.completion_tokens = 0
        self._event: Any = messages.type("gateway.v1.GenerateEvent")
        self._started = started
        self._wanted = Wanted()
        self._begun = Begun()
        self._choices: dict[int, Choosing] = {}
        self._changed: dict[int, Choosing] = {}
        self._usage: Tokens | None = None
        self._told_start = self._waits = False
        self._ready: list[bytes] = []

    def expect(self, asked: Asked) -> None:
        if isinstance(asked, Generation):
            self._wanted = asked.wanted

    def begin(self, begun: Begun) -> None:
        self._begun = begun

    def comment(self) -> None:
        self._waits = not self._told_start

    def event(self, data: bytes) -> None:
        self._note(decode(data))

    def plain(self, body: bytes) -> None:
        self._note(decode(body))

    def take(self) -> list[bytes]:
        made, self._ready = self._ready, []
        if self._waits:
            self._waits = False
            made.append(self._made(notice={"waited": time.monotonic() - self._started}))
        changed, self._changed = self._changed, {}
        for choice in changed.values():
            gained, end = choice.taken()
            if gained is not None:
                made.extend(self._deltas(choice.index, gained))
            if end is not None:
                made.append(self._made(finish=_finish(choice.index, end)))
        return made

    def finish(self) -> list[bytes]:
        self._check()
        usage = self._usage
        assert usage is not None
        return [*self.take(), self._made(usage=_usage(usage))]

    def _note(self, found: Response) -> None:
        """Add an event, or a plain response. Raises BadAnswer, Unsupported."""
        if found.choices and not self._told_start:
            self._start(found, found.choices[0])
        for choice in found.choices or ():
            known = self._choices.get(choice.index) or self._new(choice.index)
            self._changed[choice.index] = known
            known.add(choice)
            if choice.index == 0 and known.end is not None:
                self.finish_reason = known.end.reason
        if found.usage is not None:
            self._usage = found.usage
            self.prompt_tokens = found.usage.prompt_tokens or 0
            self.completion_tokens = found.usage.completion_tokens or 0

    def _new(self, index: int) -> Choosing:
        if len(self._choices) >= MAX_CHOICES:
            raise BadAnswer(f"the worker's response has more than {MAX_CHOICES} choices")
        made = self._choices[index] = Choosing(index, self._wanted)
        return made

    def _start(self, found: Response, first: Choice) -> None:
        self._told_start, self._waits = True, False
        prompt = found.prompt_token_ids or first.prompt_token_ids
        if self._wanted.prompt_token_ids and not prompt:
            raise Unsupported("the worker's response has no token ids of the prompt")
        start = {
            "id": found.id or "",
            "model": found.model or "",
            "weight_version": self._begun.weight_version,
            "worker": self._begun.worker,
            "attempts": self._begun.attempts,
            "prompt_token_ids": prompt if self._wanted.prompt_token_ids else (),
        }
        self._ready.append(self._made(start=start))
        if self._wanted.prompt_logprobs is not None:
            self._start_prompt(found.prompt_logprobs or first.prompt_logprobs, prompt or ())

    def _start_prompt(self, found: PromptLogprobs | None, prompt: Any) -> None:
        if not found:
            raise Unsupported("the worker's response has no logprobs of the prompt")
        top = self._wanted.prompt_logprobs or 0
        for part in prompt_events(found, prompt, top, MAX_TOKENS_WITH_TOP):
            self._ready.append(self._made(prompt_logprobs=part))

    def _check(self) -> None:
        """Raise Broken if a part of the response is missing, Unsupported if it was never there."""
        choices, wanted = self._choices.values(), self._wanted
        if not choices or any(choice.end is None for choice in choices):
            raise Broken("the worker's response ended without a finish reason")
        if self._usage is None:
            raise Broken("the worker's response ended without its usage")
        if len(choices) < wanted.choices:
            raise Unsupported(f"the worker made {len(choices)} of {wanted.choices} choices")
        ids = sum(choice.ids for choice in choices)
        if wanted.token_ids and ids < self.completion_tokens:
            raise Unsupported(f"the worker sent {ids} of {self.completion_tokens} token ids")
        if wanted.logprobs and self.completion_tokens and not any(one.logprobs for one in choices):
            raise Unsupported("the worker's response has no logprobs")

    def _deltas(self, index: int, gained: Gained) -> Iterator[bytes]:
        """Yield what a choice has gained, in several messages if it is much."""
        for part in gained.parts(MAX_TOKENS_WITH_TOP if gained.top else MAX_TOKENS, MAX_TEXT):
            event = self._event()
            _fill(event.delta, index, part)
            yield event.SerializeToString()

    def _made(self, **event: object) -> bytes:
        data: bytes = self._event(**event).SerializeToString()
        return data


def _fill(delta: Any, index: int, gained: Gained) -> None:
    """Fill a Delta. A field that is set one by one costs a third of one that is given at once."""
    delta.index = index
    if gained.text:
        delta.text = gained.text
    if len(gained.token_ids) == 1:
        delta.token_ids.append(gained.token_ids[0])
    elif gained.token_ids:
        delta.token_ids.extend(gained.token_ids)
    if len(gained.logprobs) == 1:
        delta.logprobs.append(gained.logprobs[0])
    elif gained.logprobs:
        delta.logprobs.extend(gained.logprobs)
    if gained.is_rare:
        _fill_rare(delta, gained)


def _fill_rare(delta: Any, gained: Gained) -> None:
    delta.has_logprob.extend(gained.has)
    delta.reasoning, delta.refusal = gained.reasoning, gained.refusal
    for tokens in gained.top:
        delta.top.add(tokens=tokens)
    for one in gained.tool_calls:
        delta.tool_calls.add(index=one.index, id=one.id, name=one.name, arguments=one.arguments)


def _finish(index: int, end: End) -> dict[str, object]:
    """Return the members of a Finish."""
    reason = REASONS.get(end.reason, "FINISH_REASON_OTHER")
    found: dict[str, object] = {"index": index, "reason": reason, "raw_reason": end.reason}
    if end.matched is not None:
        found["stop" if isinstance(end.matched, str) else "stop_token_id"] = end.matched
    return found


def _usage(usage: Tokens) -> dict[str, object]:
    """Return the members of a Usage."""
    prompt, completion = usage.prompt_tokens or 0, usage.completion_tokens or 0
    total = prompt + completion if usage.total_tokens is None else usage.total_tokens
    found = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}
    before, after = usage.prompt_tokens_details, usage.completion_tokens_details
    details = {
        "cached_tokens": None if before is None else before.cached_tokens,
        "reasoning_tokens": None if after is None else after.reasoning_tokens,
        "accepted_prediction_tokens": None if after is None else after.accepted_prediction_tokens,
    }
    return {**found, **{name: count for name, count in details.items() if count is not None}}
