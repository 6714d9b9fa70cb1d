"""What the engine sent of each sample, read from the tap by none of the gateway's code."""

import math
from typing import Any

import msgspec
from accounting.tap import Served
from trace_capture.tapped.asks import Ask
from trace_capture.tapped.heard import data_of, events_of, is_stream

UNKNOWN = -9999.0
"""What engines send in place of minus infinity."""

LAST = ("[DONE]", '"message_stop"', '"response.completed"')
ABORTS = ("abort", "error")

Fields = dict[str, Any]


class Sample(msgspec.Struct):
    """One choice. `prompt` is empty where the engine did not tell it."""

    prompt: list[int] = []
    ids: list[int] = []
    logprobs: list[float | None] = []
    finish_reason: str | None = None

    @property
    def whole(self) -> bool:
        """Whether a trainer can use it."""
        finished = self.finish_reason is not None and self.finish_reason not in ABORTS
        scored = len(self.ids) == len(self.logprobs) and all(map(_is_logprob, self.logprobs))
        return finished and bool(self.prompt) and bool(self.ids) and scored


class Told(msgspec.Struct):
    """An answer, as far as the engine sent it."""

    status: int = 0
    samples: dict[int, Sample] = {}
    completion_tokens: int | None = None
    error: bool = False

    def is_finished(self, ask: Ask) -> bool:
        """Whether all was sampled, whatever became of the connection after that."""
        ends = [one.finish_reason for one in self.samples.values()]
        return len(ends) == ask.choices and all(ends)

    def is_whole(self, ask: Ask) -> bool:
        """Whether all that was asked for is there."""
        samples = list(self.samples.values())
        return (
            self.status == 200
            and not self.error
            and len(samples) == ask.choices
            and all(one.whole for one in samples)
            and self.completion_tokens == sum(len(one.ids) for one in samples)
        )


def told(page: Served, ask: Ask) -> Told:
    """Of several choices of a prompt, the engine may tell the prompt once for all."""
    found = Told(page.status)
    if page.status != 200:
        return found
    for event in _parts(page):
        found.error = found.error or "error" in event
        found.completion_tokens = _count(event, found.completion_tokens)
        for choice in event.get("choices", ()):
            _add(found.samples.setdefault(choice["index"], Sample()), choice, event)
        _add_messages(found, event.get("response") or event)
    several = ask.choices // ask.prompts
    prompts = {place // several: one.prompt for place, one in found.samples.items() if one.prompt}
    for place, one in found.samples.items():
        one.prompt = one.prompt or prompts.get(place // several, [])
        if ask.body.get("echo") and len(one.logprobs) == len(one.prompt) + len(one.ids):
            del one.logprobs[: len(one.prompt)]
    return found


def ends_in_order(page: Served) -> bool:
    """Whether the engine said its last word; a stream may end with an event of its own dialect."""
    return page.whole and (not is_stream(page) or any(end in data_of(page)[-1] for end in LAST))


def _parts(page: Served) -> list[Fields]:
    if is_stream(page):
        return events_of(page)
    if not page.whole:
        return []
    answer = msgspec.json.decode(page.body)
    return [answer] if isinstance(answer, dict) else []


def _add_messages(found: Told, response: Fields) -> None:
    """The ids of a Response whose caller asked for its messages; there are no logprobs."""
    ids = {name: response.get(f"{name}_messages") or [] for name in ("input", "output")}
    if ids["output"]:
        prompt, sampled = (
            [token for message in messages for token in message["tokens"]]
            for messages in ids.values()
        )
        found.samples[0] = Sample(prompt, sampled)


def _count(event: Fields, before: int | None) -> int | None:
    usage = event.get("usage")
    return usage.get("completion_tokens", before) if isinstance(usage, dict) else before


def _add(one: Sample, choice: Fields, event: Fields) -> None:
    prompt = choice.get("prompt_token_ids") or event.get("prompt_token_ids")
    one.prompt = one.prompt or prompt or []
    one.ids += choice.get("token_ids") or []
    scores = choice.get("logprobs") or {}
    if "token_logprobs" in scores:
        one.logprobs += scores["token_logprobs"]
    else:
        one.logprobs += [entry["logprob"] for entry in scores.get("content") or ()]
    one.finish_reason = choice.get("finish_reason") or one.finish_reason


def _is_logprob(value: float | None) -> bool:
    return value is not None and math.isfinite(value) and UNKNOWN < value <= 0
