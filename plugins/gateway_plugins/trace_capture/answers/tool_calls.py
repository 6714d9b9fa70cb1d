"""Assembles the tool calls of a stream from their fragments, in time linear in their length.

Most engines number the calls by `index`. Some give all parallel calls the index 0, or none, and
send each call whole: there a new id or a new name begins a call. Some repeat id and name with
each fragment.
"""

from typing import Any

import msgspec

from gateway_plugins.trace_capture.answers.assembled import UNREADABLE
from gateway_plugins.trace_capture.answers.deltas import merge, settled


class ToolCalls:
    """The calls so far. `contradicts`: the fragments do not fit together, so calls may be wrong."""

    def __init__(self) -> None:
        self.contradicts = False
        self._calls: list[_Call] = []
        self._open: dict[int, _Call] = {}  # the latest call at each index
        self._by_id: dict[str, _Call] = {}
        self._last: _Call | None = None

    def add(self, fragment: dict[str, Any]) -> None:
        """Add the next fragment of the stream."""
        call = self._call_of(fragment)
        call.add(fragment)
        if call.id:
            self._by_id[call.id] = call
        self._last = call

    def settled(self) -> list[dict[str, Any]]:
        """Return the calls as a plain response has them: by index, without `index`."""
        ordered = sorted(self._calls, key=lambda call: call.index)
        if any(not (call.name or "custom" in call.fields) for call in ordered):
            self.contradicts = True
        return [_without_index(settled(call.fields)) for call in ordered]

    def _call_of(self, fragment: dict[str, Any]) -> "_Call":
        index, id_ = fragment.get("index"), _text(fragment.get("id"))
        known = self._by_id.get(id_)
        if isinstance(index, int) and (known is None or known.index != index):
            known = self._open.get(index)
        elif known is None:
            known = self._last
        if known is None:
            return self._begin(index if isinstance(index, int) else 0)
        if not self._begins(known, id_, fragment):
            return known
        return self._begin(index if isinstance(index, int) else max(self._open) + 1)

    def _begin(self, index: int) -> "_Call":
        call = self._open[index] = _Call(index)
        self._calls.append(call)
        return call

    def _begins(self, known: "_Call", id_: str, fragment: dict[str, Any]) -> bool:
        """Whether the fragment begins another call in the place of a known one."""
        if self.contradicts:  # no more is told apart, which also bounds the work
            return False
        name = _text(_function(fragment).get("name"))
        if (kind := _text(fragment.get("type"))) and known.type and kind != known.type:
            self.contradicts = True
        elif id_ and known.id and id_ != known.id:
            self.contradicts = not (name and known.is_whole())
            return bool(name)
        elif name and known.name and name != known.name:
            begins = not known.id and known.has_arguments and known.is_whole()
            self.contradicts = not begins
            return begins
        elif name and known.name and not id_ and known.fragments == 1:
            again = _function(fragment).get("arguments")
            return _text(again).startswith("{") and known.has_arguments and known.is_whole()
        return False


class _Call:
    """One call. `fragments` counts those that it was merged from."""

    __slots__ = ("fields", "fragments", "index")

    def __init__(self, index: int) -> None:
        self.index = index
        self.fields: dict[str, Any] = {}
        self.fragments = 0

    def add(self, fragment: dict[str, Any]) -> None:
        self.fragments += 1
        merge(self.fields, fragment)

    @property
    def id(self) -> str:
        return _text(self.fields.get("id"))

    @property
    def type(self) -> str:
        return _text(self.fields.get("type"))

    @property
    def name(self) -> str:
        return _text(_function(self.fields).get("name"))

    @property
    def has_arguments(self) -> bool:
        return bool(settled(_function(self.fields).get("arguments")))

    def is_whole(self) -> bool:
        """Whether the arguments so far are JSON, or none."""
        text = settled(_function(self.fields).get("arguments"))
        if not text or not isinstance(text, str):
            return True
        try:
            msgspec.json.decode(text)
        except UNREADABLE:
            return False
        return True


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _function(fragment: dict[str, Any]) -> dict[str, Any]:
    function = fragment.get("function")
    return function if isinstance(function, dict) else {}


def _without_index(call: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in call.items() if key != "index"}
