"""A count of the tokens in a response, for what its engine did not report, or reported wrong."""

import msgspec
from msgspec import Raw

from gateway.errors import NOT_JSON
from gateway.wire.reported.repaired import read_repaired
from gateway.wire.reported.usage import Usage, WireUsage

BYTES_PER_TOKEN = 4
"""Of text that came with neither ids nor logprobs."""


def settled(told: WireUsage | None, count: "Count", estimate: int, choices: int) -> Usage:
    """Return the usage of a call from what the engine told and what was counted.

    `estimate` is that of the prompts, `choices` the number of choices of each. What is told holds,
    unless it is nothing, or less than the ids or logprobs that came: an engine may count one of
    several choices.
    """
    prompt, completion = (None, None) if told is None else (told.prompt, told.completion)
    prompts = count.prompt(choices)
    if told is None:
        return Usage(estimate if prompts is None else prompts, count.completion, counted=True)
    read = told.read()
    unread = read.unread
    if not prompt:
        ran = completion or count.completion or unread
        missing = prompt is None or not completion
        prompt = prompts or (estimate if ran and missing else 0)
        unread = unread or prompt > 0
    elif completion is None and told.total_tokens == prompt:
        prompt = max(0, prompt - count.completion)  # the total is all that was told
    elif prompts is not None and prompts > prompt:
        prompt, unread = prompts, True
    counted = not completion and count.completion > 0
    if not completion or count.exact > completion:
        # A message begins with an output of 0, and its caller may leave before there is another.
        begun = completion == 0 and told.completion_tokens is None
        unread = unread or (count.completion > 0 and not begun)
        completion = count.completion
    cached = min(read.cached_tokens, prompt)
    return Usage(prompt, completion, cached, read.reasoning_tokens, counted, unread)


class _Output(msgspec.Struct, gc=False):
    content: Raw = Raw()
    reasoning: Raw = Raw()
    reasoning_content: Raw = Raw()
    tool_calls: Raw = Raw()


class _Logprobs(msgspec.Struct, gc=False):
    content: list[Raw] | None = None
    tokens: list[Raw] | None = None


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    delta: _Output | None = None
    message: _Output | None = None
    text: str | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: Raw = Raw()
    logprobs: _Logprobs | None = None


class _Event(msgspec.Struct, gc=False):
    choices: list[_Choice] = []
    prompt_token_ids: Raw = Raw()
    type: str = ""
    content: Raw = Raw()
    output: Raw = Raw()


_read_event = msgspec.json.Decoder(_Event).decode

_SILENT = frozenset((b"", b"null", b'""', b"[]"))
_PARTS = (".delta", "_delta")
"""Suffixes of the types of events that add output, in the responses and messages APIs."""


class Count:
    """Counts the tokens of a stream, event by event, or of a plain response.

    Counts token ids; if there are none, logprobs; if there are none either, events, or the bytes of
    the text of a plain response.
    """

    __slots__ = ("_events", "_ids", "_logprobs", "_prompts")

    def __init__(self) -> None:
        self._ids = self._logprobs = self._events = 0
        self._prompts: dict[int, int] = {}

    def add(self, data: bytes) -> None:
        """Add one event's data; an event that cannot be decoded counts for nothing."""
        event = _read(data)
        if event is None:
            return
        if prompt := _length(event.prompt_token_ids):
            self._prompts[0] = prompt
        if event.type.endswith(_PARTS) and event.type != "message_delta":  # that is the end
            self._events += 1
        for choice in event.choices:
            self._add_choice(choice)

    def add_answer(self, body: bytes) -> None:
        """Add a whole plain response; one that cannot be decoded counts for nothing."""
        answer = _read(body)
        if answer is None:
            return
        if prompt := _length(answer.prompt_token_ids):
            self._prompts[0] = prompt
        text = len(bytes(answer.content)) + len(bytes(answer.output))
        for choice in answer.choices:
            self._add_choice(choice)
            text += _text_bytes(choice)
        self._events = -(-text // BYTES_PER_TOKEN)

    def _add_choice(self, choice: _Choice) -> None:
        if prompt := _length(choice.prompt_token_ids):
            self._prompts[choice.index] = prompt
        self._ids += len(choice.token_ids or ())
        if choice.logprobs is not None:
            self._logprobs += len(choice.logprobs.content or choice.logprobs.tokens or ())
        self._events += _has_output(choice)

    @property
    def exact(self) -> int:
        """The tokens that came with ids or logprobs."""
        return self._ids or self._logprobs

    @property
    def completion(self) -> int:
        return self._ids or self._logprobs or self._events

    def prompt(self, choices: int) -> int | None:
        """Number of tokens of all prompts, each with `choices` choices; None if no ids came."""
        if not self._prompts:
            return None
        return sum(n for index, n in self._prompts.items() if index % max(choices, 1) == 0)


def _read(text: bytes) -> _Event | None:
    try:
        return _read_event(text)
    except NOT_JSON:  # an engine may have written a logprob as -Infinity
        return read_repaired(_read_event, text)


def _length(ids: Raw) -> int:
    """Length of an encoded list of numbers: decoding 100,000 would block all other calls."""
    written = bytes(ids)
    return written.count(b",") + 1 if written.startswith(b"[") and len(written) > 2 else 0


def _has_output(choice: _Choice) -> bool:
    if choice.text:
        return True
    said = choice.delta
    if said is None:
        return False
    parts = (said.content, said.reasoning, said.reasoning_content, said.tool_calls)
    return any(bytes(part) not in _SILENT for part in parts)


def _text_bytes(choice: _Choice) -> int:
    said = choice.message
    parts = () if said is None else (said.content, said.reasoning_content, said.tool_calls)
    written = [len(bytes(part)) for part in parts if bytes(part) not in _SILENT]
    return sum(written) + len(choice.text or "")
