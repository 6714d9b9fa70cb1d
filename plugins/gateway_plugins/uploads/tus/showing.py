"""An upload as GET shows it."""

import msgspec
from starlette.responses import Response

from gateway_plugins.uploads.store.rows import COMPLETED, UPLOADING, Upload
from gateway_plugins.uploads.tus.fields import date


class Shown(msgspec.Struct, frozen=True):
    """An upload. `size` is None if it is not known yet; `progress` is from 0 to 1.

    `progress` is that of the present `status`. `error` says why an upload has failed, and `code`
    is its kind. `expires_at` is in Unix seconds.
    """

    id: str
    model_name: str | None
    status: str
    offset: int
    size: int | None
    sha256: str | None
    error: str | None
    code: str | None
    expires_at: float
    progress: float

    def response(self) -> Response:
        headers = {"cache-control": "no-store", "upload-expires": date(self.expires_at)}
        return Response(msgspec.json.encode(self), headers=headers, media_type="application/json")


def shown(upload: Upload, offset: int, installed: float) -> Shown:
    """Show an upload; `installed` is the progress of its verification or installation."""
    progress = installed
    if upload.status == UPLOADING:
        progress = offset / upload.length if upload.length else 0.0
    elif upload.status == COMPLETED:
        progress = 1.0
    return Shown(
        id=upload.id,
        model_name=upload.model,
        status=upload.status,
        offset=offset,
        size=upload.length,
        sha256=upload.sha256,
        error=upload.error,
        code=upload.code,
        expires_at=upload.expires,
        progress=progress,
    )
