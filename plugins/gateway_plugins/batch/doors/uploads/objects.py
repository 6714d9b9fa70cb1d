"""Uploads as callers begin and see them. Times are whole Unix seconds."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gateway_plugins.batch.doors.files.form import MAX_FIELD
from gateway_plugins.batch.doors.files.objects import ExpiresAfter, FileObject
from gateway_plugins.batch.uploads.rows import MAX_PARTS, StoredPart, StoredUpload


class NewUpload(msgspec.Struct, kw_only=True):
    """The body that begins an upload. `mime_type` is not kept: contents are bytes here."""

    bytes: Annotated[int, Meta(ge=0)]
    filename: Annotated[str, Meta(min_length=1, max_length=MAX_FIELD)]
    purpose: str
    mime_type: str = ""
    expires_after: ExpiresAfter | None = None


class Completion(msgspec.Struct, kw_only=True):
    """The body that completes an upload."""

    part_ids: Annotated[list[str], Meta(max_length=MAX_PARTS)]
    md5: str | None = None


class UploadObject(msgspec.Struct, kw_only=True):
    """OpenAI's upload object."""

    id: str
    object: Literal["upload"] = "upload"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: str
    file: FileObject | None = None


class PartObject(msgspec.Struct, kw_only=True):
    """OpenAI's object of a part."""

    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str


def shown(upload: StoredUpload, file: FileObject | None = None) -> UploadObject:
    """Return an upload as callers see it."""
    return UploadObject(
        id=upload.id,
        bytes=upload.bytes,
        created_at=int(upload.created),
        expires_at=int(upload.expires),
        filename=upload.filename,
        purpose=upload.purpose,
        status=upload.status,
        file=file,
    )


def shown_part(part: StoredPart) -> PartObject:
    """Return a part as callers see it."""
    return PartObject(id=part.id, created_at=int(part.created), upload_id=part.upload)
