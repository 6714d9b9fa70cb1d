"""Calls of every kind at random, each with an id of its own."""

import json
from random import Random
from typing import Any, Literal

import msgspec
from support.records.usage_rows import head_of

from accounting.tap import Said

KEYS = ("ada", "ben", "cy", "dee")
"""Principals who may call; the key of each is `key-` and its id."""

LAME = "lame"
"""One who may look at metrics alone."""

STRANGER = "stranger"
"""Whom nobody knows."""

STRANGERS = 8
"""Of all calls: who fails again and again is answered slowly."""

FAULTS = (
    *("500", "503", "reset-before", "reset:3", "close:2", "truncate", "error-event:2", "abort:3"),
    "slow:0.002",
)
MODEL = "sim"
WORDS = ("harbour", "ferry", "quiet", "hill", "nobody", "rows", "there", "night")
LONGEST = 0.06
"""Seconds after which those have left who leave after a time."""

FARTHEST = 2_000
"""Bytes of an answer after which those have left who leave in the middle of it."""

Kind = Literal["answered", "untraced", "unknown"]
"""untraced: refused before there is a trace of it; unknown: refused before there is anybody."""


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A call; `choices` are those for each prompt.

    Its caller leaves after so many seconds, and once it has read so many bytes; None: it does not.
    """

    call_id: str
    key: str
    path: str
    body: bytes
    headers: dict[str, str]
    choices: int
    kind: Kind = "answered"
    leaves_after: float | None = None
    leaves_at: int | None = None

    def head(self) -> bytes:
        return head_of(
            self.call_id, self.key, self.body, self.headers, path=self.path, method="POST"
        )


Verdict = Literal["whole", "error", "broken", "left", "killed"]


class Asked(msgspec.Struct):
    """How a call went, as its caller saw it.

    whole: it had its answer to the end. error: it was told another status. broken: its answer broke
    off, or ended with the gateway's error. left: it had gone before. killed: the gateway was.
    `doomed`: it ran on the gateway that was killed, when that was, or had just been left
    or broken off.
    """

    ask: Ask
    said: Said
    verdict: Verdict
    doomed: bool


class Inventing:
    """Makes up calls; the same seed makes the same ones."""

    def __init__(self, seed: int) -> None:
        self._chance = Random(seed)
        self._count = self._strangers = 0

    def next(self) -> Ask:
        self._count += 1
        chance = self._chance
        key = chance.choice(KEYS)
        choices = chance.choice((1, 1, 2, 3))
        path, body = self._generation(choices)
        headers: dict[str, str] = {}
        kind: Kind = "answered"
        match chance.random():
            case roll if roll < 0.12:
                headers["x-sim-fault"] = chance.choice(FAULTS)
            case roll if roll < 0.15:
                body = b'{"stream": tru'
            case roll if roll < 0.18:
                body = json.dumps({**json.loads(body), **chance.choice(WRONG)}).encode()
            case roll if roll < 0.20:
                key, kind = LAME, "untraced"
            case roll if roll < 0.21 and self._strangers < STRANGERS:
                self._strangers += 1
                key, kind = STRANGER, "unknown"
        leaves = chance.choice(("after", "at")) if chance.random() < 0.15 else "never"
        return Ask(
            call_id=f"call-{self._count}",
            key=key,
            path=self._in_session(path, headers),
            body=body,
            headers=headers,
            choices=choices,
            kind=kind,
            leaves_after=chance.uniform(0, LONGEST) if leaves == "after" else None,
            leaves_at=chance.randint(1, FARTHEST) if leaves == "at" else None,
        )

    def _generation(self, choices: int) -> tuple[str, bytes]:
        chance = self._chance
        stream = chance.random() < 0.6
        request: dict[str, Any] = {"n": choices, "max_tokens": chance.randint(1, 12)}
        if chance.random() < 0.8:
            request["model"] = MODEL
        if stream:
            request["stream"] = True
        if stream and chance.random() < 0.5:
            request["stream_options"] = {"include_usage": chance.random() < 0.7}
        if chance.random() < 0.5:
            request["messages"] = [{"role": "user", "content": self._words()}]
            return "/v1/chat/completions", json.dumps(request).encode()
        prompts = [self._words() for _ in range(chance.randint(1, 3))]
        request["prompt"] = prompts if len(prompts) > 1 else prompts[0]
        return "/v1/completions", json.dumps(request).encode()

    def _in_session(self, path: str, headers: dict[str, str]) -> str:
        session = f"s{self._chance.randrange(50)}"
        match self._chance.randrange(3):
            case 0:
                return f"/sessions/{session}{path}"
            case 1:
                headers["x-session-id"] = session
        return path

    def _words(self) -> str:
        return " ".join(self._chance.choices(WORDS, k=self._chance.randint(1, 8)))


WRONG: tuple[dict[str, Any], ...] = (
    {"model": "nobody-serves-this"},
    {"max_tokens": -1},
    {"messages": 7, "prompt": {"a": 1}},
)
"""What engines refuse."""
