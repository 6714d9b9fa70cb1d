"""What one choice has gained and its caller has not: merged, and never lost."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from gateway_plugins.grpc.edge.answers import Unsupported
from gateway_plugins.grpc.services.generate.request import Wanted
from gateway_plugins.grpc.services.generate.response import (
    Choice,
    Part,
    Ranked,
    ToolCall,
    ids_of,
    text_of,
)

Tops = list[dict[str, object]]

NO_IDS = "the worker's response has text without token ids"
NO_LOGPROBS = "the worker's response has text without logprobs"
MORE_LOGPROBS = "the worker's response has logprobs of tokens without ids"

TOKEN_ID = "token_id:"
"""How tokens begin if the engine writes ids in place of texts."""


class Fragment(msgspec.Struct, gc=False):
    """A fragment of a tool call: the members of a ToolCallDelta."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


class End(msgspec.Struct, frozen=True, gc=False):
    """How a choice ended: the engine's word, and the stop string or the id of the token."""

    reason: str
    matched: str | int | None = None


class Gained(msgspec.Struct, gc=False):
    """The members of a Delta. `has` is empty as long as no logprob is missing."""

    text: str = ""
    reasoning: str = ""
    refusal: str = ""
    token_ids: list[int] = []
    logprobs: list[float] = []
    has: list[bool] = []
    top: list[Tops] = []
    tool_calls: list[Fragment] = []

    def __bool__(self) -> bool:
        return bool(
            self.text
            or self.token_ids
            or self.logprobs
            or self.tool_calls
            or self.reasoning
            or self.refusal
        )

    @property
    def is_rare(self) -> bool:
        """Whether there is more than text, token ids and logprobs."""
        return bool(self.reasoning or self.tool_calls or self.top or self.has or self.refusal)

    def parts(self, tokens: int, characters: int) -> Iterator["Gained"]:
        """Yield it in parts of so many tokens and characters of text at most."""
        most = max(len(self.token_ids), len(self.logprobs))
        count = max(-(-most // tokens), -(-len(self.text) // characters))
        if count <= 1:
            yield self
            return
        for place in range(count):
            here = slice(place * tokens, (place + 1) * tokens)
            yield msgspec.structs.replace(
                Gained() if place else self,
                text=self.text[place * characters : (place + 1) * characters],
                token_ids=self.token_ids[here],
                logprobs=self.logprobs[here],
                has=self.has[here],
                top=self.top[here],
            )

    def add_logprobs(self, values: Sequence[float | None], count: int) -> None:
        """Add logprobs of `count` tokens; what is null, no number or not there is missing."""
        for place in range(max(count, len(values))):
            value = values[place] if place < len(values) else None
            known = value is not None and math.isfinite(value)
            if not known and not self.has:
                self.has = [True] * len(self.logprobs)
            if not known or self.has:
                self.has.append(known)
            self.logprobs.append(value if known and value is not None else 0.0)

    def add_call(self, fragment: Fragment) -> None:
        """Add a fragment of a tool call to the one before it, if that is of the same call."""
        last = next((one for one in reversed(self.tool_calls) if one.index == fragment.index), None)
        if last is None or (fragment.id and fragment.id != last.id) or fragment.name:
            self.tool_calls.append(fragment)
        else:
            last.arguments += fragment.arguments


class Choosing:
    """One choice of a response while it comes. `ids` and `logprobs` count those so far."""

    def __init__(self, index: int, wanted: Wanted) -> None:
        self.index = index
        self.end: End | None = None
        self.ids = self.logprobs = 0
        self._wanted = wanted
        self._gained = Gained()
        self._ending: End | None = None

    def add(self, choice: Choice) -> None:
        """Add a part of a response. Raises Unsupported."""
        part = choice.delta or choice.message
        text = choice.text if part is None else text_of(part.content)
        self._add_tokens(choice)
        if part is not None:
            self._add_part(part)
        if text and self._wanted.text:
            self._gained.text += text
        if text or (part is not None and _says_more(part)):
            self._check()
        self._add_end(choice)

    def taken(self) -> tuple[Gained | None, End | None]:
        """Return what has been gained since the last time, and the end if it has come since."""
        gained, ending = self._gained or None, self._ending
        if gained is not None:
            self._gained = Gained()
        self._ending = None
        return gained, ending

    def _add_tokens(self, choice: Choice) -> None:
        ids = ids_of(choice) or []
        self.ids += len(ids)
        if self._wanted.token_ids:
            self._gained.token_ids += ids
        if self._wanted.logprobs and choice.logprobs is not None:
            self._add_logprobs(choice, len(ids) if self._wanted.token_ids else 0)
        elif self._wanted.logprobs and self._wanted.token_ids and ids:
            self._add_scores([], [], len(ids))

    def _add_logprobs(self, choice: Choice, count: int) -> None:
        found = choice.logprobs
        assert found is not None
        if found.content is not None:
            values = [entry.logprob for entry in found.content]
            tops = [_ranked(entry.top_logprobs or ()) for entry in found.content]
        else:
            values = list(found.token_logprobs or ())
            tops = [_keyed(one or {}) for one in found.top_logprobs or ()]
        if self._wanted.token_ids and len(values) > count:
            raise Unsupported(MORE_LOGPROBS)
        self._add_scores(values, tops, count)

    def _add_scores(self, values: Sequence[float | None], tops: list[Tops], count: int) -> None:
        self.logprobs += len(values)
        self._gained.add_logprobs(values, count)
        if self._wanted.top:
            missing = max(count, len(values)) - len(tops)
            self._gained.top += [*tops, *([[]] * missing)]

    def _add_part(self, part: Part) -> None:
        if self._wanted.reasoning and (reasoning := part.reasoning or part.reasoning_content):
            self._gained.reasoning += reasoning
        if part.refusal:
            self._gained.refusal += part.refusal
        for place, call in enumerate(part.tool_calls or ()):
            self._gained.add_call(_fragment(call, place))

    def _check(self) -> None:
        """Raise Unsupported if there is text, and none of the numbers that have to go with it."""
        if self._wanted.token_ids and not self.ids:
            raise Unsupported(NO_IDS)
        if self._wanted.logprobs and not self.logprobs:
            raise Unsupported(NO_LOGPROBS)

    def _add_end(self, choice: Choice) -> None:
        reason = choice.finish_reason
        if isinstance(reason, dict):  # SGLang's own form
            reason = reason.get("type")
        if not isinstance(reason, str) or reason in ("", "null") or self.end is not None:
            return
        matched = choice.stop_reason if choice.stop_reason is not None else choice.matched_stop
        fits = isinstance(matched, str) or (type(matched) is int and 0 <= matched < 2**32)
        self.end = self._ending = End(reason, matched if fits else None)


def _says_more(part: Part) -> bool:
    return bool(part.reasoning or part.reasoning_content or part.refusal or part.tool_calls)


def _fragment(call: ToolCall, place: int) -> Fragment:
    index = place if call.index is None else min(call.index, 2**32 - 1)
    function = call.function
    if function is None:
        return Fragment(index, call.id or "")
    arguments = function.arguments
    if arguments is not None and not isinstance(arguments, str):
        arguments = msgspec.json.encode(arguments).decode()
    return Fragment(index, call.id or "", function.name or "", arguments or "")


def _ranked(tokens: Sequence[Ranked]) -> Tops:
    return [
        _token(one.token, one.logprob, one.id) | _bytes(one.bytes)
        for one in tokens
        if one.logprob is not None and math.isfinite(one.logprob)
    ]


def _keyed(tokens: dict[str, float | None]) -> Tops:
    return [
        _token(token, logprob, None)
        for token, logprob in tokens.items()
        if logprob is not None and math.isfinite(logprob)
    ]


def _token(token: str, logprob: float, token_id: int | None) -> dict[str, object]:
    made: dict[str, object] = {"token": token, "logprob": logprob}
    if token_id is None and token.startswith(TOKEN_ID) and token[9:].isdecimal():
        token_id = min(int(token[9:20]), 2**32 - 1)
    return made if token_id is None else {**made, "id": token_id}


def _bytes(values: Sequence[int] | None) -> dict[str, Any]:
    if values is None or not all(0 <= value < 256 for value in values):
        return {}
    return {"bytes": bytes(values)}
