"""What callers get if a recording cannot answer them."""

from gateway import CallError


class ReplayDiverged(CallError):
    """The recorded session did not make this call. Clients repeat no call with this status."""

    status = 422
    code = "replay_diverged"
    type = "invalid_request_error"


class RecordingUnreadable(CallError):
    """The file of traces is gone, or has changed since it was read."""

    code = "recording_unreadable"
