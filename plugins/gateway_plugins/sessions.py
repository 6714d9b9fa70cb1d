"""Finds the session of a call: from `/sessions/{id}/...`, else from a header.

Every path that the gateway forwards can stand behind the id. Which part of a path is the id, is
said in `gateway.wire.naming.session_path`.
"""

import msgspec
from starlette.routing import BaseRoute

from gateway import (
    BadRequest,
    Call,
    Host,
    hookimpl,
    read_session_id,
    split_session_path,
)

DOTS = (".", "..")
"""No ids: clients take a segment of one or two dots out of a path before they send it."""

BLANK = b" \t"


class Sessions:
    """Sets `call.session_id`."""

    class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        """`header` names the request header that holds the id; `max_length` is in characters."""

        header: str = "x-session-id"
        max_length: int = 256

    def __init__(self, config: Config) -> None:
        self._header = config.header.lower().encode("latin-1")
        self._max_length = config.max_length

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
    def admit(self, call: Call) -> None:
        session_id = call.session_id
        if session_id is None:
            given, wanted = b"", self._header
            for name, value in call.headers:
                if name == wanted:
                    given = value
                    break
            if given and (given[0] in BLANK or given[-1] in BLANK):
                given = given.strip(b" \t")
            if not given:
                return
            try:
                session_id = given.decode()
            except UnicodeDecodeError:  # a path is UTF-8; a header is that, or else Latin-1
                session_id = given.decode("latin-1")
            call.session_id = session_id
        # The check of `check_session_id`, without the cost of a further call.
        if not session_id.isprintable() or len(session_id) > self._max_length or session_id in DOTS:
            self.check_session_id(session_id)

    @hookimpl
    def check_session_id(self, session_id: str) -> None:
        too_long = len(session_id) > self._max_length
        if too_long or session_id in DOTS or not session_id.isprintable():
            raise BadRequest(
                f"a session id has at most {self._max_length} characters, all printable, and is "
                "not one dot or two",
                param="session_id",
                code="invalid_session_id",
            )
