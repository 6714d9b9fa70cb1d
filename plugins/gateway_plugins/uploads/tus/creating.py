"""What a POST is to create, from its headers."""

import time
from pathlib import Path

from gateway import BodyTooLarge, Forbidden
from gateway_plugins.uploads.errors import ModelExists, ModelOfAnother, bad_header
from gateway_plugins.uploads.options import Options
from gateway_plugins.uploads.places import folder_of, obstacle
from gateway_plugins.uploads.store.folder import new_id
from gateway_plugins.uploads.store.rows import PARTIAL, Replaces, Upload
from gateway_plugins.uploads.tus import metadata
from gateway_plugins.uploads.tus.fields import number, parts_of
from gateway_plugins.uploads.tus.metadata import Wanted
from gateway_plugins.uploads.tus.request import Request

DEFERRED = "Upload-Defer-Length"


def new_upload(request: Request, options: Options, expires: float) -> Upload:
    """Return the upload that a request is to create. Raises BadRequest, BodyTooLarge, Forbidden."""
    concat = (request.header("upload-concat") or "").strip()
    parts = parts_of(concat)
    upload = Upload(
        id=new_id(),
        owner=request.owner,
        length=None if parts else _length(request, options.max_bytes),
        metadata=request.header("upload-metadata") or "",
        concat=concat,
        parts=" ".join(parts),
        created=time.time(),
        expires=expires,
    )
    pairs = metadata.parse(upload.metadata)
    if concat != PARTIAL:
        _describe(upload, metadata.wanted(pairs), request)
    return upload


def _length(request: Request, most: int) -> int | None:
    length = number("Upload-Length", request.header("upload-length"))
    deferred = request.header("upload-defer-length")
    if deferred is not None and (deferred.strip() != "1" or length is not None):
        raise bad_header(DEFERRED, "it is to be 1, and not to be there beside Upload-Length")
    if length is None and deferred is None:
        raise bad_header("Upload-Length", f"it is missing, and so is {DEFERRED}")
    check_length(length or 0, most)
    return length


def check_length(length: int, most: int) -> None:
    """Raise BodyTooLarge if an upload may not be as long as this."""
    if length > most:
        raise BodyTooLarge(f"an upload has at most {most} bytes (uploads.max_bytes)")


def _describe(upload: Upload, wanted: Wanted, request: Request) -> None:
    models = None if request.principal is None else request.principal.models
    if models is not None and wanted.model not in models:
        raise Forbidden("this key is not for this model", code="model_not_allowed")
    upload.model, upload.filename = wanted.model, wanted.filename
    upload.expected = wanted.digest or ""
    upload.replaces = _replaces(wanted.overwrite, request.is_admin)


def _replaces(overwrite: bool, is_admin: bool) -> Replaces:
    if not overwrite:
        return ""
    return "any" if is_admin else "own"


def check_model(upload: Upload, cache: Path) -> None:
    """Raise ModelExists or ModelOfAnother if the upload may not have its name. Reads the disk."""
    if upload.model is None:
        return
    problem = obstacle(folder_of(cache, upload.model), upload.owner, upload.replaces)
    if problem == "model_exists":
        raise ModelExists(
            f"there is a model `{upload.model}`; to replace it, name `overwrite` in "
            "Upload-Metadata, as `gateway upload --overwrite` does"
        )
    if problem is not None:
        raise ModelOfAnother(
            f"there is a model `{upload.model}` that this key has not uploaded; a key with the "
            "scope `admin` may replace it"
        )
