"""Plugins with the hooks of the database and of traces, so that tests can see what they do."""

import threading
from typing import Literal

import msgspec
from support.plugins.recording_plugin import PATIENCE

from gateway import Migration, Migrations, Trace, hookimpl


class Notes:
    """Has a table of its own; a newer release of it has one more column."""

    class Config(msgspec.Struct, frozen=True):
        newer: bool = False

    def __init__(self, config: Config) -> None:
        self._newer = config.newer

    @hookimpl
    def migrations(self) -> Migrations:
        create = Migration("create", "CREATE TABLE notes (call_id TEXT)")
        colour = "ALTER TABLE notes ADD COLUMN colour TEXT NOT NULL DEFAULT 'red'"
        steps = (create, Migration("add_colour", colour))
        return Migrations("notes", steps if self._newer else steps[:1])


class Redactor:
    """Does to a trace what its option says."""

    class Config(msgspec.Struct, frozen=True):
        does: Literal["nothing", "tags", "words", "tokens", "another", "breaks"]

    def __init__(self, config: Config) -> None:
        self._does = config.does
        self.given: list[str] = []

    @hookimpl
    def redact_trace(self, trace: Trace) -> Trace | None:
        self.given.append(trace.trace_id)
        if self._does == "breaks":
            raise ValueError("no rule for this")
        if self._does == "another":
            return Trace(trace_id=trace.trace_id, metadata={"only": "this"})
        if self._does == "tags":
            trace.metadata = {"tag": 1}
        if self._does == "words":
            trace.messages, trace.raw_request = [], None
        if self._does == "tokens":
            trace.choices[0].token_ids.pop()
        return None


class Reader:
    """Takes what was recorded, once it may; `begun` is set when the hook is called."""

    def __init__(self) -> None:
        self.traces: list[Trace] = []
        self.begun, self.may_go_on = threading.Event(), threading.Event()
        self.may_go_on.set()

    @hookimpl
    def trace_recorded(self, trace: Trace) -> None:
        self.begun.set()
        self.may_go_on.wait(PATIENCE)
        self.traces.append(trace)


class Breaking:
    """Its `trace_recorded` raises."""

    @hookimpl
    def trace_recorded(self, trace: Trace) -> None:
        raise OSError("the queue is gone")
