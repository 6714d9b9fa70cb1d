"""Calls of every kind at random, each with an id of its own."""

from collections.abc import Sequence
from random import Random
from typing import Any

import msgspec
from support.records.usage_rows import head_of

from soak.engine import VOCABULARY
from soak.facts import Kind
from soak.plan import LAME

CALLERS = ("ada", "ben", "cy")
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MOODS = ("500", "503", "400", "breaking", "breaking")
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}

LONGEST = 0.05
"""Seconds after which those have left who leave after a time."""

FARTHEST = 3_000
"""Bytes of an answer after which those have left who leave in the middle of it."""

LARGE = (10_000, 150_000)
"""Words of a large prompt, of six to seven bytes each."""

Message = dict[str, Any]


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A call, or where there is no body the question of a GET.

    Its caller leaves after so many seconds, and once it has read so many bytes; None: it does not.
    """

    call_id: str
    key: str
    path: str
    body: bytes = b""
    headers: dict[str, str] = {}
    kind: Kind = "answered"
    session: str = ""
    method: str = "POST"
    leaves_after: float | None = None
    leaves_at: int | None = None

    def head(self) -> bytes:
        return head_of(
            self.call_id, self.key, self.body, self.headers, path=self.path, method=self.method
        )


class Inventing:
    """Makes up calls; the same seed makes the same ones."""

    def __init__(self, seed: int) -> None:
        self.chance = Random(f"calls {seed}")
        self._seed = seed
        self._count = 0

    def next_id(self) -> str:
        self._count += 1
        return f"call-{self._seed}-{self._count}"

    def single(self) -> Ask:
        """One that belongs to no session."""
        chance = self.chance
        ask = Ask(call_id=self.next_id(), key=chance.choice(CALLERS), path=CHAT)
        match chance.random():
            case roll if roll < 0.01:
                return _changed(ask, body=b'{"stream": tru', kind="refused")
            case roll if roll < 0.02:
                return _changed(ask, key=LAME, body=self._chat(), kind="refused")
            case roll if roll < 0.03:
                return _changed(ask, method="GET", path="/v1/models", kind="other")
            case roll if roll < 0.06:
                return _changed(ask, key="tri", body=self._chat())
            case roll if roll < 0.062:
                return _changed(ask, body=self._chat(words=chance.randint(*LARGE)))
            case roll if roll < 0.10:
                mood = {"x-soak-mood": chance.choice(MOODS)}
                return _changed(ask, body=self._chat(), headers=mood)
            case roll if roll < 0.18:
                return _changed(ask, body=self._chat(), **self._leaving())
            case roll if roll < 0.28:
                return _changed(ask, body=self._chat(n=2))
            case roll if roll < 0.36:
                return _changed(ask, body=self._chat(tools=[TOOL]))
            case roll if roll < 0.60:
                body = self._body(prompt=self._words(chance.randint(1, 40)))
                return _changed(ask, path=COMPLETIONS, body=body)
        return _changed(ask, body=self._chat())

    def stranger(self) -> Ask:
        return Ask(
            call_id=self.next_id(), key="nobody's", path=CHAT, body=self._chat(), kind="unknown"
        )

    def turn(self, session: str, key: str, messages: Sequence[Message]) -> Ask:
        """The next one of a session, told by the path or by a header."""
        ask = Ask(call_id=self.next_id(), key=key, path=CHAT, session=session)
        body = self._body(messages=messages)
        leaving = self._leaving() if self.chance.random() < 0.03 else {}
        if self.chance.random() < 0.5:
            return _changed(ask, body=body, path=f"/sessions/{session}{CHAT}", **leaving)
        return _changed(ask, body=body, headers={"x-session-id": session}, **leaving)

    def idle(self, pause: float) -> Ask:
        """A stream on which something comes every `pause` seconds."""
        chance = self.chance
        tokens = chance.randint(4, 20)
        body = {"messages": [self.said("user")], "stream": True, "max_tokens": tokens}
        return Ask(
            call_id=self.next_id(),
            key=chance.choice(CALLERS),
            path=CHAT,
            body=msgspec.json.encode(body),
            headers={"x-soak-pause": str(pause), "x-soak-mood": "well"},
            leaves_after=chance.uniform(0, 10 * pause) if chance.random() < 0.3 else None,
        )

    def said(self, role: str, words: int = 12) -> Message:
        return {"role": role, "content": self._words(self.chance.randint(1, words))}

    def _leaving(self) -> dict[str, Any]:
        if self.chance.random() < 0.5:
            return {"leaves_after": self.chance.uniform(0, LONGEST)}
        return {"leaves_at": self.chance.randint(1, FARTHEST)}

    def _chat(self, *, words: int = 12, **more: object) -> bytes:
        return self._body(messages=[{"role": "user", "content": self._words(words)}], **more)

    def _body(self, **request: Any) -> bytes:
        chance = self.chance
        request = {"model": "soak", "max_tokens": chance.randint(2, 24), **request}
        if chance.random() < 0.6:
            request["stream"] = True
            if chance.random() < 0.4:
                request["stream_options"] = {"include_usage": chance.random() < 0.7}
        return msgspec.json.encode(request)

    def _words(self, count: int) -> str:
        return " ".join(self.chance.choices(VOCABULARY, k=count))


def _changed(ask: Ask, **changes: Any) -> Ask:
    return msgspec.structs.replace(ask, **changes)
