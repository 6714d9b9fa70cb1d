"""Finds the session of a call, and who makes the call, as far as its harness says so.

The session is that of `/sessions/{id}/...`, else of a header, else what a harness calls it, else
the caller's own if `fallback` says so. Every path that the gateway forwards can stand behind the id
in a path. Which part of a path is the id, is said in `gateway.wire.naming.session_path`.
"""

from collections.abc import Awaitable, Mapping
from typing import Any, Literal

import msgspec
from starlette.routing import BaseRoute

from gateway import (
    BadRequest,
    Call,
    Host,
    get_header,
    hookimpl,
    read_session_id,
    split_session_path,
)
from gateway_plugins.sessions.harnesses import Harnesses, Known, Request, compile_preset
from gateway_plugins.sessions.places import header_text
from gateway_plugins.sessions.presets import PRESETS, Preset

DOTS = (".", "..")
"""No ids: clients take a segment of one or two dots out of a path before they send it."""

BLANK = b" \t"


class Sessions:
    """Sets `call.session_id` and `call.harness`."""

    class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        """`header` names the request header that holds the id; `max_length` is in characters.

        `run_header` names the one that holds the run which the session belongs to.

        `harnesses` are presets by name, tried before those of presets.py and in place of those of
        the same name; `known_harnesses` turns the latter off. `fallback` is the session of a call
        that names none: none, or one of each principal.
        """

        header: str = "x-session-id"
        run_header: str = "x-run-id"
        max_length: int = 256
        known_harnesses: bool = True
        harnesses: dict[str, Preset] = {}
        fallback: Literal["none", "principal"] = "none"

        def __post_init__(self) -> None:
            for name, preset in self.harnesses.items():
                try:
                    compile_preset(name, preset)
                except ValueError as error:
                    raise ValueError(f"harnesses.{name}: {error}") from None

    def __init__(self, config: Config) -> None:
        self._header = config.header.lower().encode("latin-1")
        self._run_header = config.run_header.lower().encode("latin-1")
        self._max_length = config.max_length
        self._by_principal = config.fallback == "principal"
        presets = {**config.harnesses, **(PRESETS if config.known_harnesses else {})}
        presets |= config.harnesses
        self._harnesses = Harnesses(compile_preset(*one) for one in presets.items())

    @hookimpl
    def routes(self, gateway: Host) -> list[BaseRoute]:
        """Other paths under /sessions may be another plugin's.

        Like a worker's path, a session's path is matched as it was sent, so an encoded slash is no
        separator.
        """

        def find(path: str) -> tuple[str, str] | None:
            found = split_session_path(path, gateway.carries)
            return None if found is None else (found[1], read_session_id(found[0]))

        return [gateway.carried_below("/sessions/", find)]

    @hookimpl
    def admit(self, call: Call) -> Awaitable[None] | None:
        session_id = call.session_id or self._in_header(call)
        if session_id is not None:
            call.session_id = session_id
            self.check_session_id(session_id)
        if (run := get_header(call.headers, self._run_header)) is not None:
            call.run_id = self._run_in(run)
        found = self._harnesses.find(call.headers)
        if found is None:
            self._fall_back(call)
            return None
        known, headers = found
        if call.method == "POST" and known.needs_body(headers):
            return self._read_body(call, known, headers)
        self._set(call, known, headers, {})
        return None

    def _in_header(self, call: Call) -> str | None:
        given, wanted = b"", self._header
        for name, value in call.headers:
            if name == wanted:
                given = value
                break
        if given and (given[0] in BLANK or given[-1] in BLANK):
            given = given.strip(b" \t")
        return header_text(given) if given else None

    def _run_in(self, value: bytes) -> str | None:
        """Return the name of a run in a header; None if it is empty. Raises BadRequest."""
        run = header_text(value.strip())
        if run and not self._is_id(run):
            raise BadRequest(
                f"the name of a run has at most {self._max_length} characters, all printable",
                param="run_id",
                code="invalid_run_id",
            )
        return run or None

    async def _read_body(self, call: Call, known: Known, headers: Mapping[str, str]) -> None:
        body: Mapping[str, Any] = {}
        if await call.body.is_object():
            try:
                body = await call.json()
            except BadRequest:  # the worker says what is wrong with it
                body = {}
        self._set(call, known, headers, body)

    def _set(
        self, call: Call, known: Known, headers: Mapping[str, str], body: Mapping[str, Any]
    ) -> None:
        said = known.read(Request(headers, body, self._is_id))
        call.harness = said.harness
        if call.session_id is None:
            call.session_id = said.session_id
        self._fall_back(call)

    def _is_id(self, found: str) -> bool:
        return found.isprintable() and len(found) <= self._max_length and found not in DOTS

    def _fall_back(self, call: Call) -> None:
        if self._by_principal and call.session_id is None and call.principal is not None:
            call.session_id = call.principal.id

    @hookimpl
    def check_session_id(self, session_id: str) -> None:
        if not self._is_id(session_id):
            raise BadRequest(
                f"a session id has at most {self._max_length} characters, all printable, and is "
                "not one dot or two",
                param="session_id",
                code="invalid_session_id",
            )
