"""The model of a request that is a form: multipart, or URL-encoded. Nothing here raises.

Engines differ in what they make of odd forms. A form from which two readers could take different
models names none here: what a key is allowed may depend on it.
"""

import re
from urllib.parse import parse_qsl, unquote_to_bytes

MULTIPART = b"multipart/form-data"
URL_ENCODED = b"application/x-www-form-urlencoded"

MAX_MODEL_BYTES = 1_000
"""Maximum length of a name in a part of a form; a longer one is no name."""

MAX_PARTS = 1_000
"""Maximum number of parts of a form that are looked at."""

MAX_PART_HEAD = 16 * 1024
"""Maximum length of the header of a part."""

_BOUNDARY = re.compile(rb';\s*boundary=(?:"([^"\r\n]{1,70})"|([^\s;",]{1,70}))', re.IGNORECASE)
_BOUNDARIES = re.compile(rb";\s*boundary\s*[*=]", re.IGNORECASE)
_LINE_ENDS = re.compile(rb"(?:\r\n)*")
_NAME = re.compile(rb';\s*name\s*=\s*(?:"([^"\\\r\n]*)"|([^\s;"]+))', re.IGNORECASE)
_ODD_NAME = re.compile(rb";\s*name\s*\*", re.IGNORECASE)
_DISPOSITION = re.compile(rb"(?:^|\r\n)content-disposition\s*:([^\r\n]*)", re.IGNORECASE)


def is_form(content_type: bytes) -> bool:
    """Whether a body of this content type is a form."""
    kind = content_type.partition(b";")[0].strip().lower()
    return kind in (MULTIPART, URL_ENCODED)


def named_model(body: bytes, kind: bytes, query: bytes, *, whole: bool) -> str | None:
    """Return the model that a form names, else the one that the query names; None if neither does.

    `kind` is the content type of `body`, which need not be a form.
    """
    model = form_model(body, kind, whole=whole) if is_form(kind) else None
    return query_model(query) if model is None and query else model


def form_model(body: bytes, content_type: bytes, *, whole: bool = True) -> str | None:
    """Return the field `model` of a form; None if it has none, or several that differ.

    If `body` is not the `whole` form, only what there is counts.
    """
    if content_type.partition(b";")[0].strip().lower() == URL_ENCODED:
        return query_model(body) if whole else None
    found = _BOUNDARY.search(content_type)
    if found is None or len(_BOUNDARIES.findall(content_type)) > 1:
        return None
    return _multipart_model(body, b"--" + (found[1] or found[2]), whole=whole)


def query_model(query: bytes) -> str | None:
    """Return `model` of a query string; None if it has none, or several that differ."""
    return _only(query_models(query))


def query_models(query: bytes) -> set[str]:
    """Return all values of `model` in a query string; an empty one if it cannot be read."""
    if b"model" not in unquote_to_bytes(query):
        return set()
    try:
        pairs = parse_qsl(query.decode(), True, True, max_num_fields=MAX_PARTS, errors="strict")
    except ValueError:  # too many fields, or no UTF-8
        return {""}
    return {value for name, value in pairs if name == "model"}


def _multipart_model(body: bytes, mark: bytes, *, whole: bool) -> str | None:
    """Look for the parts named `model`; all parts must be as every reader expects them."""
    first = _LINE_ENDS.match(body)
    at = 0 if first is None else first.end()  # some clients begin with a line end
    if not body.startswith(mark, at):
        return None
    models: set[str] = set()
    at += len(mark)
    for _ in range(MAX_PARTS):
        if body.startswith(b"--", at):
            return _only(models)
        end_of_head = body.find(b"\r\n\r\n", at, at + MAX_PART_HEAD)
        end = body.find(b"\r\n" + mark, end_of_head + 4) if end_of_head >= 0 else -1
        if end < 0 or not body.startswith(b"\r\n", at):
            return None if whole else _only(models)
        name = _name_of(body[at:end_of_head])
        if name is None:
            return None
        if name == b"model":
            models.add(_text(body[end_of_head + 4 : end]))
        at = end + 2 + len(mark)
    return None


def _name_of(head: bytes) -> bytes | None:
    """Return the name of a part, None if readers could differ about it."""
    [*given] = _DISPOSITION.findall(head)
    if len(given) != 1 or _ODD_NAME.search(given[0]):
        return None
    names = _NAME.findall(given[0])
    return names[0][0] or names[0][1] if len(names) == 1 else None


def _text(value: bytes) -> str:
    try:
        return value.decode() if len(value) <= MAX_MODEL_BYTES else ""
    except UnicodeDecodeError:
        return ""


def _only(models: set[str]) -> str | None:
    return next(iter(models)) or None if len(models) == 1 else None
