"""Objects that a worker keeps: responses, conversations, files, batches, videos, by their paths.

The path of an object, `/v1/responses/resp_1`, is its name here.
"""

import re
from collections.abc import Sequence

import msgspec

from gateway.errors import NOT_JSON

RESPONSES = "/v1/responses"
CONVERSATIONS = "/v1/conversations"
FILES = "/v1/files"
BATCHES = "/v1/batches"
UPLOADS = "/v1/uploads"
VIDEOS = "/v1/videos"

COLLECTIONS = frozenset((RESPONSES, CONVERSATIONS, FILES, BATCHES, UPLOADS, VIDEOS))

NO_IDS = frozenset(("render", "derender", "compact", "input_tokens"))
"""What stands in place of an id in paths of engines."""

MAX_READ = 256 * 1024
"""Bytes of a response in which its id is looked for."""

_ID = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9_.:~-]{1,200}")
_FIRST_ID = re.compile(rb'"id"\s*:\s*"([A-Za-z0-9_.:~-]{1,200})"')


class _Identified(msgspec.Struct):
    id: str | None = None


class _References(msgspec.Struct):
    previous_response_id: str | None = None
    conversation: str | _Identified | None = None
    input_file_id: str | None = None


_references = msgspec.json.Decoder(_References).decode
_made = msgspec.json.Decoder(_Identified).decode


def collection_of(path: str) -> str | None:
    """Return the collection of a path that is one, or that names an object below one."""
    found = "/".join(path.split("/", 3)[:3])
    return found if found in COLLECTIONS else None


def object_of(path: str) -> str | None:
    """Return the object that a path names, or of which it names a part."""
    collection, id_ = "/".join(path.split("/", 3)[:3]), path.split("/", 4)[3:4]
    return _object(collection, id_[0]) if id_ and collection in COLLECTIONS else None


def references_of(body: bytes) -> Sequence[str]:
    """Return the objects that the body of a request refers to; none if it cannot be read."""
    try:
        found = _references(body)
    except NOT_JSON:
        return ()
    conversation = found.conversation
    id_ = conversation.id if isinstance(conversation, _Identified) else conversation
    named = (
        _object(RESPONSES, found.previous_response_id or ""),
        _object(CONVERSATIONS, id_ or ""),
        _object(FILES, found.input_file_id or ""),
    )
    return [one for one in named if one is not None]


def made_by(collection: str, response: bytes, *, streamed: bool) -> str | None:
    """Return the object that a response tells of; None if there is no id in it (yet).

    `response` is a whole plain response, or the beginning of a stream, in which the first id is
    that of the response.
    """
    if streamed:
        match = _FIRST_ID.search(response)
        return None if match is None else _object(collection, match[1].decode())
    try:
        return _object(collection, _made(response).id or "")
    except NOT_JSON:
        return None


def _object(collection: str, id_: str) -> str | None:
    return f"{collection}/{id_}" if _ID.fullmatch(id_) and id_ not in NO_IDS else None
