"""Keys set in the body of a request, whose other values keep their bytes."""

from collections.abc import Mapping

import msgspec

from gateway.errors import NOT_JSON, InvalidJSON
from gateway.kernel.interface import Fields
from gateway.wire.surrogates import guarded, may_have_half

_encode = msgspec.json.Encoder().encode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def set_keys(
    body: bytes, changes: Mapping[str, object], fields: Fields | None, added: bytes = b""
) -> bytes:
    """Set some keys of `body`, as `rewrite` does; `fields` are those of `body` if they are known.

    If it has none of the keys, they come at its end, and all else keeps its bytes. `added` is their
    text as members after others, if that is known, and that `body` has none of them.
    """
    if not changes:
        return body
    if fields is None or not (added or changes.keys().isdisjoint(fields)):
        return rewrite(body, changes)
    if not added:
        added = b"," + _encode(changes)[1:-1]
    return b"%b%b}" % (body[: body.rfind(b"}")], added if fields else added[1:])


def rewrite(body: bytes, changes: Mapping[str, object]) -> bytes:
    """Set some keys of `body`, a JSON object; its other values keep their bytes and their order.

    Raises InvalidJSON if `body` is not a JSON object.
    """
    guarded_body, restore = body, None
    if may_have_half(body):
        guarded_body, restore = guarded(body)
    try:
        values = _decode_object(guarded_body)
    except NOT_JSON as error:
        raise InvalidJSON(f"the request body must be a JSON object: {error}") from None
    if not changes:
        return body
    written = _encode({**values, **changes})
    return restore(written) if restore is not None else written
