"""Which part of a path is a session's id: `/sessions/{id}` stands in front of any carried path.

An id is percent-encoded, a slash in it as %2F. Clients of rllm do not encode theirs, which name a
rollout of a task (`harbor/hello-world:0`); so a part with slashes is an id, too, if a colon is in
its last segment. Any other part with slashes could as well be an id and the beginning of a path
that nobody carries, and is refused.
"""

from collections.abc import Callable
from urllib.parse import unquote

from gateway.errors import NotFound

PREFIX = "/sessions/"

MAX_SEGMENTS = 32
"""Maximum segments of an id whose slashes are not encoded."""


def split_path(path: str, carries: Callable[[str], bool]) -> tuple[str, str] | None:
    """Split a session's path into the encoded id and the path behind it, which `carries` accepts.

    The id ends before the first such path. None if there is none.
    """
    if not path.startswith(PREFIX):
        return None
    start = end = len(PREFIX)
    for _ in range(MAX_SEGMENTS):
        end = path.find("/", end)
        if end < 0:
            return None
        behind = path[end:]
        if behind != "/v1/" and carries(behind):
            return path[start:end], behind
        end += 1
    return None


def read_session_id(encoded: str) -> str:
    """Return the id that a part of a path stands for. Raises NotFound if it cannot be one."""
    try:
        session_id = unquote(encoded, errors="strict")
    except UnicodeDecodeError:
        raise NotFound("the session id in this path is not UTF-8, percent-encoded") from None
    if not session_id:
        raise NotFound("there is no session id in this path")
    if "/" in encoded:
        segments = encoded.split("/")
        if not all(segments) or ":" not in unquote(segments[-1]) or len(segments) > MAX_SEGMENTS:
            raise NotFound(
                f"{encoded[:200]!r} is no session id: write a slash in an id as %2F; or nothing is "
                "forwarded to the path behind the id"
            )
    return session_id
