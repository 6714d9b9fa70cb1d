"""What requests are refused with, beside the gateway's own errors."""

import errno
import logging

from gateway import BadRequest, CallError, Forbidden

log = logging.getLogger("gateway.uploads")

FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


class UploadConflict(CallError):
    """The request does not go on where the upload is."""

    status = 409
    code = "upload_offset_mismatch"
    type = "invalid_request_error"


class ModelExists(CallError):
    """There is a model of this name, and the upload is not to replace it."""

    status = 409
    code = "model_exists"
    type = "invalid_request_error"


class ModelOfAnother(Forbidden):
    """There is a model of this name, and the key may not replace it."""

    code = "model_of_another_key"


class UploadGone(CallError):
    """The upload has failed, or has expired."""

    status = 410
    code = "upload_gone"
    type = "invalid_request_error"


class UnknownVersion(CallError):
    """The request is not of TUS 1.0.0."""

    status = 412
    code = "tus_version"
    type = "invalid_request_error"


class WrongContentType(CallError):
    """The body of a PATCH is not declared as bytes of an upload."""

    status = 415
    code = "wrong_content_type"
    type = "invalid_request_error"


class TooManyUploads(CallError):
    """The key has begun as many uploads as it may."""

    status = 429
    code = "too_many_uploads"
    type = "rate_limit_error"


class ChecksumMismatch(CallError):
    """The body of a PATCH has another checksum than it says."""

    status = 460
    code = "checksum_mismatch"
    type = "invalid_request_error"


class UploadDiskFull(CallError):
    """There is no room on the disk."""

    status = 507
    code = "disk_full"


class UploadsUnavailable(CallError):
    """The folder of uploads cannot be read or written now."""

    status = 503
    code = "uploads_unavailable"


def of_disk(error: OSError) -> CallError:
    """Return what a caller is told of an error of the folder."""
    if error.errno in FULL:
        return UploadDiskFull("there is no room on the disk; what has arrived is kept")
    log.error("the folder of uploads: %s", error)
    return UploadsUnavailable("the folder of uploads cannot be used now; the log says why")


def bad_header(name: str, problem: str) -> BadRequest:
    """Return the refusal of a header, which is named."""
    return BadRequest(f"{name}: {problem}", param=name)
