"""Calls of every dialect at random, each with an id of its own."""

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Literal

import msgspec
from trace_capture.tapped.bodies import Bodies, Body

End = Literal["whole", "leaves", "aborted"]

DIALECTS: dict[str, str] = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "messages": "/v1/messages",
    "responses": "/v1/responses",
    "generate": "/inference/v1/generate",
}

NO_SAMPLES: dict[str, str] = {
    "count_tokens": "/v1/messages/count_tokens",
    "render": "/v1/chat/completions/render",
    "tokenize": "/tokenize",
}

LONGEST = 0.5
"""Seconds after which those have left who leave after a time."""

FARTHEST = 8_000
"""Bytes of an answer after which those have left who leave in the middle of it."""


class Ask(msgspec.Struct, kw_only=True):
    """A call. `end`: its caller reads all of the answer, or leaves after so many bytes of it
    (`length`) or `seconds`, whichever comes first; or the engine is told to abort it then.
    `fault`: what the simulator is to do."""

    call_id: str
    session_id: str
    api: str
    path: str
    body: Body
    prompts: int = 1
    end: End = "whole"
    fault: str = ""
    seconds: float | None = None
    length: int | None = None

    @property
    def stream(self) -> bool:
        return self.body.get("stream") is True

    @property
    def choices(self) -> int:
        """Of all prompts together."""
        several = self.body.get("sampling_params", {}).get("n") or self.body.get("n") or 1
        return self.prompts * int(several)

    @property
    def samples(self) -> bool:
        """Whether a trace is to be had of it."""
        return self.api in DIALECTS

    @property
    def beam(self) -> bool:
        return bool(self.body.get("use_beam_search"))

    def head_and_body(self) -> bytes:
        body = json.dumps(self.body).encode()
        fault = f"x-sim-fault: {self.fault}\r\n" if self.fault else ""
        head = (
            f"POST /sessions/{self.session_id}{self.path} HTTP/1.1\r\nhost: gateway.test\r\n"
            f"content-type: application/json\r\nx-request-id: {self.call_id}\r\n"
            f"{fault}content-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


class Inventing:
    """Makes up calls of the `model`; the same seed makes the same ones.

    `name` begins their ids and sessions. A tenth of them have one of the simulator's `faults`.
    """

    def __init__(self, name: str, model: str, seed: int, faults: Sequence[str] = ()) -> None:
        self._name = name
        self._model = model
        self._chance = Random(seed)
        self._bodies = Bodies(self._chance, model)
        self._faults = faults
        self._count = 0
        self._sessions = 0

    def session(self) -> str:
        self._sessions += 1
        return f"{self._name}-{self._sessions}"

    def next(self, session_id: str, said: list[str]) -> Ask:
        """A turn after the texts `said`: the caller's and the model's by turns."""
        self._count += 1
        ask = Ask(
            call_id=f"{self._name}.{self._count}", session_id=session_id, api="", path="", body={}
        )
        if self._chance.random() < 0.04:
            self._without_sample(ask, said)
            return ask
        ask.api = self._chance.choice(list(DIALECTS))
        ask.path = DIALECTS[ask.api]
        make: Callable[[list[str]], Body] = getattr(self._bodies, ask.api)
        ask.body = make(said)
        prompt = ask.body.get("prompt")
        if ask.api == "completions" and isinstance(prompt, list) and isinstance(prompt[0], str):
            ask.prompts = len(prompt)
        if self._faults and self._chance.random() < 0.1:
            ask.fault = self._chance.choice(self._faults)
        self._end(ask)
        return ask

    def _without_sample(self, ask: Ask, said: list[str]) -> None:
        ask.api = self._chance.choice(list(NO_SAMPLES))
        ask.path = NO_SAMPLES[ask.api]
        messages = [{"role": "user", "content": said[-1]}]
        ask.body = {"model": self._model, "messages": messages}

    def _end(self, ask: Ask) -> None:
        chance = self._chance
        roll = chance.random()
        if roll < 0.75:
            return
        ask.end = "leaves" if roll < 0.88 else "aborted"
        if chance.random() < 0.7:  # else the answer may be over before that
            self._bodies.lengthen(ask.api, ask.body, chance.randint(60, 250))
        if chance.random() < 0.5:
            ask.seconds = chance.uniform(0, LONGEST)
        else:
            ask.length = chance.randint(1, FARTHEST)
            ask.seconds = 10 * LONGEST
