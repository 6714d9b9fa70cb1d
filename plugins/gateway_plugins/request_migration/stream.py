"""Follows the events of one stream, so that another worker can carry it on."""

from array import array
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from gateway import (
    NOT_JSON,
    Call,
    Continued,
    Event,
    UpstreamError,
    Worker,
    error_message,
    is_true,
)
from gateway_plugins.request_migration.requests import (
    COMPLETIONS,
    Unable,
    carrying,
    encoded,
    longest_of,
    text_of,
)
from gateway_plugins.request_migration.rewriting import NAMES, Seam

DONE = b"[DONE]"
DONE_EVENT = b"data: [DONE]\n\n"

NOTHING = msgspec.Raw(b"null")

MAX_HELD, MAX_HELD_BYTES = 64, 1 << 20
"""Maximum events that wait for the text of their tokens, and their size."""

UNREADABLE = (*NOT_JSON, AttributeError, OverflowError, TypeError, ValueError)
"""What an event of another shape than that of its API may raise."""

TokenId = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]

BROKEN_CHARACTER = "\ufffd"
"""How a text ends whose last character is not whole."""


class Counts:
    """Streams that broke off: how often one was carried on, and how many were lost."""

    def __init__(self) -> None:
        self.migrated = self.lost = 0


class _Delta(msgspec.Struct, frozen=True, gc=False):
    content: Any = None
    reasoning: Any = None
    reasoning_content: Any = None
    tool_calls: Any = None


class _Entry(msgspec.Struct, gc=False):
    token: str | None = None


class _Scores(msgspec.Struct, gc=False):
    """Logprobs as far as they have the texts of the tokens: those of chat, and of completions."""

    content: list[_Entry] | None = None
    tokens: list[str | None] | None = None


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    text: str | None = None
    delta: _Delta = _Delta()
    token_ids: list[TokenId] | None = None
    prompt_token_ids: list[TokenId] | None = None
    finish_reason: str | None = None
    logprobs: msgspec.Raw = NOTHING

    @property
    def content(self) -> str:
        found = self.text or self.delta.content
        return found if isinstance(found, str) else ""

    @property
    def is_thought(self) -> bool:
        """Whether it has what only the parser of a worker can tell from text."""
        delta = self.delta
        return bool(delta.reasoning or delta.reasoning_content or delta.tool_calls)

    @property
    def ends_within_character(self) -> bool:
        """Whether the last of several tokens has no whole text; false if the engine tells none."""
        if len(self.token_ids or ()) < 2:
            return False
        try:
            scores = msgspec.json.decode(self.logprobs, type=_Scores | None)
        except NOT_JSON:
            return False
        if scores is None or not (scores.content or scores.tokens):
            return False
        last = scores.content[-1].token if scores.content else (scores.tokens or [None])[-1]
        return last is not None and (not last or last.endswith(BROKEN_CHARACTER))


class _Seen(msgspec.Struct, gc=False):
    choices: list[_Choice] = []
    prompt_token_ids: list[TokenId] | None = None
    usage: msgspec.Raw = NOTHING
    error: msgspec.Raw = NOTHING


class _Error(msgspec.Struct):
    code: int | str | None = None


_decode = msgspec.json.Decoder(_Seen).decode


def note(call: Call, words: str) -> None:
    """Tell in the trace why a stream that broke off was not carried on."""
    call.note("worker_broke_off", f"the stream was not migrated: {words}")


class Stream:
    """The Continuation of one call to one of the APIs `chat`, `completions` and `generate`.

    `broke`: it has broken off at least once. `tokens` are those of the present worker.

    An event whose last token has no text yet waits for the text: a character may need several
    tokens, and no engine continues a prompt that ends within a character.
    """

    def __init__(self, call: Call, api: str, limit: int, counts: Counts) -> None:
        self.tokens: int | None = 0
        self.broke = False
        self._call, self._api = call, api
        self._left, self._counts = limit, counts
        self._prompt: list[int] = []
        self._ids = array("i")
        self._held: list[tuple[_Seen, bytes]] = []
        self._last = b""  # data of the latest event that was passed on
        self._characters = 0
        self._thinks = self._has_text = self._unsure = False
        self._finished = self._has_usage = self._done = False
        self._lost: str | None = None
        self._seam: Seam | None = None

    # of a Continuation

    def event(self, event: Event) -> bytes:
        data = event.data
        if self._lost is not None or not data:
            return event.raw
        if data == DONE:
            self._done = True
            return self._flush() + event.raw
        try:
            seen, raw = self._read(data, event.raw)
        except UNREADABLE:
            whole = event.raw.endswith((b"\n\n", b"\r\n\r\n", b"\r\r"))
            return self.give_up("an event cannot be read") + event.raw if whole else b""
        if seen is None:
            return b""
        if seen.error != NOTHING:
            return self._failed(bytes(seen.error), raw)
        return self._take(seen, raw)

    def end(self) -> bytes:
        if self._lost is None and not (self._finished or self._done):
            raise UpstreamError("the worker's stream ended in the middle")
        return self._flush()

    def give_up(self, words: str) -> bytes:
        self._lost = self._lost or words
        return self._flush()

    def rest(self) -> bytes | None:
        self.broke = True
        if self._lost is not None or not self._finished:
            return None
        if self._done:
            return b""
        usage = b"" if self._has_usage or not self._wants_usage() else self._usage_event()
        return usage + DONE_EVENT

    async def resume(self, worker: Worker) -> Continued | None:
        self._held.clear()
        try:
            request = await self._request(worker)
        except Unable as error:
            note(self._call, str(error))
            return None
        self._left -= 1
        self._counts.migrated += 1
        self.tokens = 0
        return request

    # what a stream has

    def _read(self, data: bytes, raw: bytes) -> tuple[_Seen | None, bytes]:
        if self._seam is None:
            return _decode(data), raw
        joined = self._seam.joined(msgspec.json.decode(data, type=dict[str, Any]))
        if joined is None:
            return None, b""
        made = encoded(joined)
        return _decode(made), b"data: %b\n\n" % made

    def _failed(self, error: bytes, raw: bytes) -> bytes:
        """Break the attempt off if the engine itself failed; else the error is the caller's."""
        try:
            code = msgspec.json.decode(error, type=_Error).code
        except NOT_JSON:
            code = None
        if not self._finished and self._left and isinstance(code, int) and code >= 500:
            words = error_message(msgspec.json.decode(error)) or "no reason"
            raise UpstreamError(f"the worker's engine failed: {words}")
        return self.give_up("the worker sent an error") + raw

    def _take(self, seen: _Seen, raw: bytes) -> bytes:
        choices = seen.choices
        if len(choices) > 1 or (choices and choices[0].index):
            return self.give_up("the answer has several choices") + raw
        if choices and choices[0].content and choices[0].token_ids is None:
            return self.give_up("the worker sends no token ids") + raw
        self._held.append((seen, raw))
        if choices and self._waits(choices[0]):
            return b""
        return self._flush()

    def _waits(self, choice: _Choice) -> bool:
        """Whether the text of the choice's tokens may come later; never in a mode without text."""
        silent = self._api == "generate" and choice.text is None
        if not choice.token_ids or silent or choice.finish_reason:
            return False
        if (choice.content or choice.is_thought) and not choice.ends_within_character:
            return False
        size = sum(len(raw) for _, raw in self._held)
        return len(self._held) < MAX_HELD and size < MAX_HELD_BYTES

    def _flush(self) -> bytes:
        held, self._held = self._held, []
        if held:
            self._unsure = False
        for seen, raw in held:
            self._note(seen)
            self._last = raw
        return b"".join([raw for _, raw in held])

    def _note(self, seen: _Seen) -> None:
        self._has_usage = self._has_usage or (seen.usage != NOTHING and not seen.choices)
        self._prompt = seen.prompt_token_ids or self._prompt
        for choice in seen.choices:
            self._prompt = choice.prompt_token_ids or self._prompt
            self._add(choice)

    def _add(self, choice: _Choice) -> None:
        ids = choice.token_ids or []
        self._ids.extend(ids)
        self.tokens = (self.tokens or 0) + len(ids)
        self._characters += len(choice.content)
        self._finished = self._finished or choice.finish_reason is not None
        self._has_text = self._has_text or bool(choice.content)
        if ids:
            self._unsure = len(ids) > 1 or not choice.content
        self._thinks = choice.is_thought or (self._thinks and not choice.content)

    # how it goes on

    async def _request(self, worker: Worker) -> Continued:
        self._check()
        call, body = self._call, self._body()
        self._seam = self._seam_of(body)
        if not self._ids:
            return Continued(call.path, encoded(body))
        prompt = [*self._prompt, *self._ids]
        await self._check_seam(worker, body)
        longest = await longest_of(worker, body.get("model")) if self._needs_longest(body) else None
        asked = carrying(self._api, body, prompt, len(self._ids), longest=longest)
        path = COMPLETIONS if self._api == "chat" else call.path
        return Continued(path, encoded(asked))

    def _check(self) -> None:
        if self._lost is not None:
            raise Unable(self._lost)
        if self._done:
            raise Unable("the stream had ended without a finish reason")
        if not self._left:
            raise Unable("migration_limit is reached")
        if self._ids and not self._prompt:
            raise Unable("the worker sent no token ids of the prompt")
        if self._ids and self._thinks:
            raise Unable("only the worker that began can tell reasoning from the answer")

    async def _check_seam(self, worker: Worker, body: Mapping[str, Any]) -> None:
        """Raise Unable if the text that was sent does not end with its last token."""
        if not self._has_text:
            return
        text = await text_of(worker, body.get("model"), self._ids)
        if self._unsure if text is None else text.endswith(BROKEN_CHARACTER):
            raise Unable("the last token that was sent ends within a character")

    def _needs_longest(self, body: Mapping[str, Any]) -> bool:
        named = (body.get("max_tokens"), body.get("max_completion_tokens"))
        return self._api == "chat" and named == (None, None)

    def _seam_of(self, body: Mapping[str, Any]) -> Seam:
        return Seam(
            names=self._names_sent(),
            prompt=len(self._prompt),
            sampled=len(self._ids),
            characters=self._characters,
            changes_api=self._api == "chat" and bool(self._ids),
            alternatives=body.get("top_logprobs") or 0,
        )

    def _names_sent(self) -> dict[str, Any]:
        if not self._last:
            return {}
        event = self._last_event()
        return {name: event[name] for name in NAMES if name in event}

    def _last_event(self) -> dict[str, Any]:
        data = b"\n".join(
            line.removeprefix(b"data:") for line in self._last.splitlines() if line[:5] == b"data:"
        )
        return msgspec.json.decode(data, type=dict[str, Any])

    def _body(self) -> dict[str, Any]:
        """Return the request that began the stream, as it was sent."""
        call = self._call
        body = {**(call.parsed or {}), **call.overwritten, **call.injected}
        if self._api == "generate":
            self._prompt = body["token_ids"]
        return body

    def _wants_usage(self) -> bool:
        options = self._body().get("stream_options")
        return isinstance(options, dict) and is_true(options.get("include_usage"))

    def _usage_event(self) -> bytes:
        event = self._last_event()
        event.pop("prompt_token_ids", None)
        prompt, sampled = len(self._prompt), len(self._ids)
        usage = {"prompt_tokens": prompt, "total_tokens": prompt + sampled}
        event |= {"choices": [], "usage": {**usage, "completion_tokens": sampled}}
        return b"data: %b\n\n" % encoded(event)
