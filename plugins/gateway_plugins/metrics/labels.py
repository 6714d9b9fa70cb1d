"""Limits the values of labels to a few, regardless of the contents of calls."""

from collections.abc import Iterable

from gateway import api_of

OTHER = "other"

MAX_NAME_LENGTH = 128
"""Maximum characters of a name; a longer one is OTHER."""


class Routes:
    """Maps a path to its label, for `more` and the paths of known APIs; any other to `other`."""

    def __init__(self, more: Iterable[str] = ()) -> None:
        self._more = frozenset(more)

    def of(self, path: str) -> str:
        if path in self._more:
            return path
        api = api_of(path)
        return (None if api is None else api.label(path)) or OTHER


class Names:
    """The first `most` names that were `good`; any other name is `other`, and None is ""."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._known: set[str] = set()

    def of(self, name: str | None, *, good: bool) -> str:
        if name is None:
            return ""
        if name in self._known:
            return name
        if not good or len(self._known) >= self.most or not _is_plain(name):
            return OTHER
        self._known.add(name)
        return name


def _is_plain(name: str) -> bool:
    return len(name) <= MAX_NAME_LENGTH and name.isprintable()
