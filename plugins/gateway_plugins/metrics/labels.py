"""Limits the values of labels to a few, regardless of the contents of calls."""

from collections.abc import Iterable

OTHER = "other"

MAX_NAME_LENGTH = 128
"""Maximum characters of a name; a longer one is OTHER."""

ROUTES = frozenset(
    {
        "/v1/audio/speech",
        "/v1/audio/transcriptions",
        "/v1/audio/translations",
        "/v1/batches",
        "/v1/chat/completions",
        "/v1/classify",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/files",
        "/v1/images/generations",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/models",
        "/v1/moderations",
        "/v1/pooling",
        "/v1/rerank",
        "/v1/responses",
        "/v1/score",
        "/detokenize",
        "/tokenize",
    }
)

_UNDER = {
    "batches": "/v1/batches/{id}",
    "files": "/v1/files/{id}",
    "models": "/v1/models/{id}",
    "responses": "/v1/responses/{id}",
}


class Routes:
    """Maps a path to its template, for known paths and `more` of them; any other to `other`."""

    def __init__(self, more: Iterable[str] = ()) -> None:
        self._known = {path: path for path in (*ROUTES, *more)}

    def of(self, path: str) -> str:
        return self._known.get(path) or _template(path)


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


def _template(path: str) -> str:
    parts = path.split("/", 4)
    if len(parts) == 4 and parts[1] == "v1" and parts[3]:
        return _UNDER.get(parts[2], OTHER)
    return OTHER


def _is_plain(name: str) -> bool:
    return len(name) <= MAX_NAME_LENGTH and name.isprintable()
