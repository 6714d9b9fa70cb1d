"""Assembles the message of a /v1/messages stream."""

from typing import Any

import msgspec

from gateway_plugins.trace_capture.answers.assembled import UNREADABLE
from gateway_plugins.trace_capture.answers.deltas import merge, settled


class MessageStream:
    """Collects a stream's events; `settled` returns the plain message, `stopped`: it has ended."""

    def __init__(self) -> None:
        self.stopped = False
        self._message: dict[str, Any] = {}
        self._blocks: dict[int, dict[str, Any]] = {}
        self._inputs: dict[int, list[str]] = {}

    def add(self, event: dict[str, Any]) -> None:
        """Add an event; an unknown one changes nothing."""
        kind = event.get("type")
        if kind == "message_stop":
            self.stopped = True
        elif kind == "message_start":
            self._message = dict(_object(event.get("message")))
        elif kind == "message_delta":
            self._finish(event)
        elif kind == "content_block_start":
            self._blocks[_index(event)] = dict(_object(event.get("content_block")))
        elif kind == "content_block_delta":
            self._grow(_index(event), _object(event.get("delta")))

    def settled(self) -> dict[str, Any]:
        """Return the message with its content blocks in order; {} if no message has begun."""
        if not self._message and not self._blocks:
            return {}
        blocks = [self._block(index) for index in sorted(self._blocks)]
        return {**self._message, "content": blocks}

    def _finish(self, event: dict[str, Any]) -> None:
        self._message.update(_object(event.get("delta")))
        usage = dict(_object(self._message.get("usage")))
        new = _object(event.get("usage")).items()
        usage.update({key: value for key, value in new if value is not None})
        self._message["usage"] = usage

    def _grow(self, index: int, delta: dict[str, Any]) -> None:
        block = self._blocks.setdefault(index, {})
        for key, value in delta.items():
            if key == "partial_json":
                self._inputs.setdefault(index, []).append(value)
            elif key == "citation":
                merge(block, {"citations": [value]})
            elif key != "type":
                merge(block, {key: value})

    def _block(self, index: int) -> dict[str, Any]:
        block: dict[str, Any] = settled(self._blocks[index])
        pieces = [piece for piece in self._inputs.get(index, []) if isinstance(piece, str)]
        return {**block, "input": _input("".join(pieces))} if any(pieces) else block


def _input(text: str) -> Any:
    """Parse the arguments of a tool call; they stay text if the stream broke off in them."""
    try:
        return msgspec.json.decode(text)
    except UNREADABLE:
        return text


def _index(event: dict[str, Any]) -> int:
    index = event.get("index")
    return index if isinstance(index, int) else 0


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
