"""One choice of a stream: which of its text goes to the caller at once, and which is parsed first.

Text is sent as it comes while the engine's parser holds nothing back, and nothing in the text may
begin a tool call or reasoning. From such a text on, the engine makes events of the tokens, piece by
piece, until one of them comes back as the text that it is.
"""

from collections import deque
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from gateway_plugins.trace_capture.tito.answer.marks import MARKS, THOUGHT, without_hidden
from gateway_plugins.trace_capture.tito.answer.stops import begun, cut_at, keeps_stop, stops_of
from gateway_plugins.trace_capture.tito.answer.structs import Asked, Choice, Logprobs, with_ids

Way = Literal["content", "reasoning", "parsed"]
"""What text is sent as; `parsed`: only the engine can tell."""


class Sent(msgspec.Struct):
    """What a choice adds to the stream: a delta, and what belongs to its tokens."""

    delta: dict[str, Any]
    token_ids: list[int]
    logprobs: dict[str, Any] | None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


class Piece(msgspec.Struct):
    """Tokens that wait for the parser, one or more events together; `alone`: no others join."""

    ids: list[int] = []
    parsed_ids: list[int] = []
    text: str = ""
    logprobs: list[Logprobs | None] = []
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    alone: bool = False


class ChoiceStream:
    """The state of one choice; `message` is what the caller has got so far."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._way: Way = "parsed" if asked.calls or asked.thinks else "content"
        self._unparsed: list[int] = []
        self._state: dict[str, Any] = {"role_sent": True}
        self._joins = False
        self._waiting: deque[Piece] = deque()
        self._parsing = False
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._text = ""
        self._held: dict[str, str] = {}
        self._stops, self._keeps_stop = stops_of(asked.request), keeps_stop(asked.request)
        self._calls: dict[int, dict[str, Any]] = {}
        self.ids: list[int] = []
        self.finish_reason: str | None = None
        self.stop_reason: int | str | None = None

    @property
    def waits(self) -> bool:
        return bool(self._waiting)

    def add(self, choice: Choice) -> Sent | None:
        """Take the choice of an event; return what goes to the caller at once."""
        self.ids += choice.token_ids or ()
        self._text += choice.text
        self.finish_reason, self.stop_reason = choice.finish_reason, choice.stop_reason
        if self._goes_at_once(choice):
            self._unparsed += self._parsed_ids(choice)
            return self._plain(choice)
        self._wait(choice)
        return None

    def _parsed_ids(self, choice: Choice) -> list[int]:
        return choice.parsed_ids(keeps_stop=self._keeps_stop)

    def _goes_at_once(self, choice: Choice) -> bool:
        if not self._asked.parsed:
            return True
        if self._way == "parsed" or self._parsing or self._waiting:
            return False
        if self._stops:
            return False  # the text lags behind the ids
        if self._way == "reasoning" and not self._asked.shows_marks and not _is_word(choice):
            return False  # thoughts may end at a token without a text
        return MARKS.search(choice.text) is None

    def _plain(self, choice: Choice) -> Sent:
        way = "reasoning" if self._way == "reasoning" else "content"
        delta = {way: choice.text} if choice.text else {}
        return self._sent(
            delta,
            choice.token_ids or [],
            [choice.logprobs],
            choice.finish_reason,
            choice.stop_reason,
        )

    def _wait(self, choice: Choice) -> None:
        alone = self._may_be_thought(choice)
        if alone and len(self._parsed_ids(choice)) > 1:
            choice = self._wait_for_each(choice)
        if alone or not self._waiting or self._waiting[-1].alone:
            self._waiting.append(Piece(alone=alone))
        piece = self._waiting[-1]
        piece.ids += choice.token_ids or ()
        piece.parsed_ids += self._parsed_ids(choice)
        piece.text += choice.text
        piece.logprobs.append(choice.logprobs)
        piece.finish_reason, piece.stop_reason = choice.finish_reason, choice.stop_reason

    def _wait_for_each(self, choice: Choice) -> Choice:
        """Have each token but the last one parsed alone; return the choice with that one."""
        ids = choice.token_ids or []
        count = len(self._parsed_ids(choice)) - 1
        self._waiting += [Piece(ids=[one], parsed_ids=[one], alone=True) for one in ids[:count]]
        return msgspec.structs.replace(choice, token_ids=ids[count:])

    def _may_be_thought(self, choice: Choice) -> bool:
        """Whether the text has a mark of reasoning; if special tokens are hidden, it is empty."""
        if not self._asked.thinks or not choice.token_ids:
            return False
        hidden = not choice.text and not self._asked.shows_marks
        return hidden or THOUGHT.search(choice.text) is not None

    def take(self) -> tuple[Piece, dict[str, Any]]:
        """Return what waits, and the request that parses it; `parsed` takes the response."""
        piece, self._parsing = self._waiting.popleft(), True
        if self._unparsed:
            self._note(self._unparsed)
            self._unparsed = []
        choice = {"index": 0, "token_ids": piece.parsed_ids, "finish_reason": piece.finish_reason}
        chunk = {"request_id": "t", "output_mode": "tokens", "choices": [choice]}
        fields = {"stream": True, "generate_chunk": chunk, "stream_state": self._state}
        return piece, self._asked.derender(**fields)

    def _note(self, ids: list[int]) -> None:
        """Add tokens to the state that were sent without the parser; it reads them as one piece."""
        before, lengths = self._state.get("output_token_ids"), self._state.get("output_chunk_lens")
        self._state = {
            **self._state,
            "output_token_ids": [*(before or ()), *ids],
            "output_chunk_lens": [*(lengths or ()), len(ids)],
        }
        self._join(alone=False)

    def _join(self, *, alone: bool) -> None:
        """Join the last two pieces of the state: the parser reads all pieces again each time."""
        lengths: list[int] = self._state.get("output_chunk_lens") or []
        if self._joins and not alone and not self._calls and len(lengths) > 1:
            joined = [*lengths[:-2], lengths[-2] + lengths[-1]]
            self._state = {**self._state, "output_chunk_lens": joined}
        self._joins = not alone

    def parsed(self, piece: Piece, found: Mapping[str, Any]) -> Sent:
        """Take the engine's response to the request of `take`; return what goes to the caller."""
        self._parsing = False
        self._state = found.get("stream_state") or self._state
        if piece.parsed_ids:
            self._join(alone=piece.alone)
        choices = (found.get("chunk") or {}).get("choices") or [{}]
        given = choices[0].get("delta") or {}
        delta = self._texts(given)
        if given.get("tool_calls"):
            delta["tool_calls"] = with_ids(given["tool_calls"])
        self._choose_way(piece, delta)
        if self._stops:
            self._hold_back(piece, delta)
        if piece.finish_reason is not None:
            self._complete(delta)
        return self._sent(delta, piece.ids, piece.logprobs, piece.finish_reason, piece.stop_reason)

    def _texts(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the parser says. A text with stop strings lags, so that it hides nothing."""
        said = {name: given[name] for name in ("content", "reasoning") if given.get(name)}
        if self._asked.shows_marks or self._stops:
            return said
        seen = {name: without_hidden(text, self._text) for name, text in said.items()}
        return {name: text for name, text in seen.items() if text}

    def _choose_way(self, piece: Piece, delta: Mapping[str, Any]) -> None:
        """Send the next text at once if all of this one came back as it is."""
        plain = bool(piece.text) and MARKS.search(piece.text) is None
        if plain and delta == {"content": piece.text}:
            self._way = "content"
        elif plain and delta == {"reasoning": piece.text}:
            self._way = "reasoning"
        else:
            self._way = "parsed"

    def _hold_back(self, piece: Piece, delta: dict[str, Any]) -> None:
        """Keep the end of a text in which a stop string may begin, and cut the last text at it."""
        texts = {
            way: self._held.pop(way, "") + delta.pop(way, "") for way in ("reasoning", "content")
        }
        last = "content" if texts["content"] else "reasoning"
        text = texts[last]
        if isinstance(piece.stop_reason, str):
            texts[last] = cut_at(text, piece.stop_reason, self._text, keep=self._keeps_stop)
        elif piece.finish_reason is None and "tool_calls" not in delta:
            sure = len(text) - begun(text, self._stops)
            texts[last], self._held[last] = text[:sure], text[sure:]
        delta.update({way: text for way, text in texts.items() if text})

    def _complete(self, delta: dict[str, Any]) -> None:
        """Send all of a text that is only text: a parser keeps back the mark of no whole call."""
        forced = self._asked.calls
        if forced or self._calls or self._reasoning or {"tool_calls", "reasoning"} & delta.keys():
            return
        said = "".join(self._content)
        if self._text.startswith(said + delta.get("content", "")):
            delta.pop("content", None)
            if rest := self._text[len(said) :]:
                delta["content"] = rest

    def _sent(
        self,
        delta: dict[str, Any],
        ids: list[int],
        logprobs: list[Logprobs | None],
        finish_reason: str | None,
        stop_reason: int | str | None,
    ) -> Sent:
        self._content.append(delta.get("content") or "")
        if delta.get("reasoning"):
            self._reasoning.append(delta["reasoning"])
        for call in delta.get("tool_calls") or ():
            self._add_call(call)
        reason = self._asked.finish_reason(finish_reason, called=bool(self._calls))
        return Sent(delta, ids, self._asked.logprobs(logprobs), reason, stop_reason)

    def _add_call(self, call: Mapping[str, Any]) -> None:
        function = call.get("function") or {}
        place = call.get("index") or 0
        if place not in self._calls:
            self._calls[place] = {"id": call.get("id"), "name": "", "arguments": ""}
        one = self._calls[place]
        one["name"] += function.get("name") or ""
        one["arguments"] += function.get("arguments") or ""

    @property
    def message(self) -> dict[str, Any]:
        """The message as far as the caller has it, in the form of a plain response."""
        said = "".join(self._content)
        found: dict[str, Any] = {"role": "assistant", "content": said or None}
        if self._reasoning:
            found["reasoning"] = "".join(self._reasoning)
        if self._calls:
            found["tool_calls"] = [
                {
                    "id": call["id"],
                    "type": "function",
                    "function": {"name": call["name"], "arguments": call["arguments"]},
                }
                for _, call in sorted(self._calls.items())
            ]
        return found


def _is_word(choice: Choice) -> bool:
    """Whether a choice is one token with a text: special tokens that are hidden have none."""
    return len(choice.token_ids or ()) == 1 and bool(choice.text)
