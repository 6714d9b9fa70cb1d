"""Files as callers see them, and what callers may say of them. Times are whole Unix seconds."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gateway import BadRequest
from gateway_plugins.batch.files.rows import StoredFile

PURPOSES = ("assistants", "batch", "evals", "fine-tune", "user_data", "vision")
"""What a caller may upload a file for."""

MIN_SECONDS, MAX_SECONDS = 3_600, 2_592_000
"""Bounds of the seconds after which a file may expire."""

MAX_PAGE = 10_000


class FileObject(msgspec.Struct, kw_only=True):
    """OpenAI's file object."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"
    expires_at: int | None = None
    status_details: None = None


class FileList(msgspec.Struct, kw_only=True):
    """OpenAI's list of files."""

    object: Literal["list"] = "list"
    data: Sequence[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Deleted(msgspec.Struct, kw_only=True):
    """OpenAI's answer to a deletion."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class ListQuery(msgspec.Struct, kw_only=True):
    """The query of a list of files."""

    purpose: str | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = MAX_PAGE
    order: Literal["asc", "desc"] = "desc"
    after: str | None = None


class ExpiresAfter(msgspec.Struct):
    """When a file expires."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Meta(ge=MIN_SECONDS, le=MAX_SECONDS)]


def shown(file: StoredFile) -> FileObject:
    """Return a file as callers see it."""
    return FileObject(
        id=file.id,
        bytes=file.bytes,
        created_at=int(file.created),
        filename=file.filename,
        purpose=file.purpose,
        expires_at=None if file.expires is None else int(file.expires),
    )


def listed(files: Sequence[StoredFile], limit: int) -> FileList:
    """Return the first `limit` of the files as a list."""
    data = [shown(file) for file in files[:limit]]
    return FileList(
        data=data,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
        has_more=len(files) > limit,
    )


def checked_purpose(purpose: str | None) -> str:
    """Return `purpose` if a caller may upload a file for it. Raises BadRequest."""
    if purpose not in PURPOSES:
        given = "is missing" if purpose is None else f"is {purpose[:100]!r}"
        message = f"`purpose` {given}: it must be one of {', '.join(PURPOSES)}"
        raise BadRequest(message, param="purpose")
    return purpose


def seconds_of(fields: Mapping[str, str]) -> int | None:
    """Return after how many seconds the file of a form is to expire; None: it does not say.

    Raises BadRequest.
    """
    given = {name: fields.get(f"expires_after[{name}]") for name in ("anchor", "seconds")}
    if given == {"anchor": None, "seconds": None}:
        return None
    try:
        return msgspec.convert(given, ExpiresAfter, strict=False).seconds
    except msgspec.ValidationError:
        message = (
            "`expires_after` must have the anchor `created_at`, and seconds from "
            f"{MIN_SECONDS} to {MAX_SECONDS}"
        )
        raise BadRequest(message, param="expires_after") from None
