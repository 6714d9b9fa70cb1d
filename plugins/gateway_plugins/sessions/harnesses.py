"""Finds the harness behind a call, and reads what that harness says."""

import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import translate
from typing import Any

import msgspec

from gateway import CallKind, Harness, Headers
from gateway_plugins.sessions.places import Place, header_text, parse_place, read_place
from gateway_plugins.sessions.presets import Preset

MAX_AGENTS = 1024
"""Maximum number of user agents that are remembered as unknown to all presets."""

MAX_AGENT = 256
"""Maximum length in bytes of one that is remembered, so that callers cannot fill the memory."""

Match = tuple[Place, re.Pattern[str]]


class Said(msgspec.Struct, frozen=True):
    """What a call says by one preset: its session, if any, and the harness."""

    session_id: str | None
    harness: Harness


class Known(msgspec.Struct, frozen=True):
    """A preset, ready to be matched and read."""

    name: str
    when: tuple[Match, ...]
    session: tuple[Place, ...]
    parent_session: tuple[Place, ...]
    agent: tuple[Place, ...]
    parent_agent: tuple[Place, ...]
    call_kind: tuple[tuple[Match, CallKind], ...]

    def matches(self, headers: Mapping[str, str]) -> bool:
        return any(map(Request(headers, {}, bool).matches, self.when))

    def needs_body(self, headers: Mapping[str, str]) -> bool:
        """Whether something may be in the body that the headers have not said."""
        lists = (self.session, self.parent_session, self.agent, self.parent_agent)
        said = Request(headers, {}, bool)
        if any(_in_body(places) and said.first(places) is None for places in lists):
            return True
        return _in_body([match[0] for match, _ in self.call_kind])

    def read(self, request: "Request") -> Said:
        """Return what `request` says; an id that is not valid counts as not said."""
        session_id, agent_id = request.first(self.session), request.first(self.agent)
        parent_id = request.first(self.parent_agent)
        kinds = (kind for match, kind in self.call_kind if request.matches(match))
        harness = Harness(
            name=self.name,
            # Some harnesses give the main agent an id, that of the session.
            agent_id=None if agent_id == session_id else agent_id,
            parent_agent_id=None if parent_id == session_id else parent_id,
            parent_session_id=request.first(self.parent_session),
            call_kind=next(kinds, None),
        )
        return Said(session_id, harness)


class Request(msgspec.Struct, frozen=True):
    """The headers and the body that are read, and what an id has to be."""

    headers: Mapping[str, str]
    body: Mapping[str, Any]
    is_id: Callable[[str], bool]

    def first(self, places: Iterable[Place]) -> str | None:
        """Return the first valid id at these places, or None."""
        values = (read_place(place, self.headers, self.body) for place in places)
        return next((value for value in values if value is not None and self.is_id(value)), None)

    def matches(self, match: Match) -> bool:
        place, pattern = match
        value = read_place(place, self.headers, self.body)
        return value is not None and pattern.match(value) is not None


def compile_preset(name: str, preset: Preset) -> Known:
    """Return the preset, ready to use; ValueError if one of its places is none."""
    when = tuple((parse_place(place), _pattern(glob)) for place, glob in preset.when.items())
    if not when or _in_body([place for place, _ in when]):
        raise ValueError("`when` needs at least one place, and all of its places are headers")
    return Known(
        name=name,
        when=when,
        session=tuple(map(parse_place, preset.session)),
        parent_session=tuple(map(parse_place, preset.parent_session)),
        agent=tuple(map(parse_place, preset.agent)),
        parent_agent=tuple(map(parse_place, preset.parent_agent)),
        call_kind=tuple(
            ((parse_place(place), _pattern(glob)), kind)
            for place, kinds in preset.call_kind.items()
            for glob, kind in kinds.items()
        ),
    )


class Harnesses:
    """Presets in the order in which they are tried."""

    def __init__(self, known: Iterable[Known]) -> None:
        self._known = tuple(known)
        places = [place for one in self._known for place in _places(one) if place.part == "header"]
        self._wanted = frozenset(place.name.encode("latin-1") for place in places)
        self._strangers: set[bytes] = set()

    def find(self, headers: Headers) -> tuple[Known, dict[str, str]] | None:
        """Return the preset that knows these headers, and the headers that presets read."""
        wanted = self._wanted
        found = [pair for pair in headers if pair[0] in wanted]
        if not found or (len(found) == 1 and found[0][1] in self._strangers):
            return None
        texts = {name.decode("latin-1"): header_text(value) for name, value in found[::-1]}
        for known in self._known:
            if known.matches(texts):
                return known, texts
        if len(found) == 1 and found[0][0] == b"user-agent":
            self._remember(found[0][1])
        return None

    def _remember(self, agent: bytes) -> None:
        if len(agent) <= MAX_AGENT and len(self._strangers) < MAX_AGENTS:
            self._strangers.add(agent)


def _places(known: Known) -> Iterable[Place]:
    yield from (place for place, _ in known.when)
    yield from (*known.session, *known.parent_session, *known.agent, *known.parent_agent)
    yield from (match[0] for match, _ in known.call_kind)


def _pattern(glob: str) -> re.Pattern[str]:
    return re.compile(translate(glob))


def _in_body(places: Iterable[Place]) -> bool:
    return any(place.part == "body" for place in places)
