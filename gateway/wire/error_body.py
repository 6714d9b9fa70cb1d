"""The message of an error that a worker sent."""

import msgspec


def error_message(error: object) -> str | None:
    """Return the message of `error`, the decoded value under `error` in a response.

    The JSON of `error` if its shape is unknown, None if it is null. Never raises.
    """
    if isinstance(error, dict) and isinstance(message := error.get("message"), str):
        return message
    if error is None or isinstance(error, str):
        return error
    try:
        return msgspec.json.encode(error).decode()
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError):
        return repr(error)
