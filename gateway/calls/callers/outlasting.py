"""Lets a plugin stand before the caller of a call, so that the call may outlast the caller."""

from typing import Protocol

from gateway.calls.call import Call
from gateway.calls.reply import Caller


class Outlasting(Caller, Protocol):
    """A Caller (see Reply) before another one, and what decides when that one has left."""

    def left(self) -> bool:
        """Whether the call goes on; nothing may be sent to the caller behind from now on.

        If it does, whoever made this ends the call with `call.cancel(CallerGone())`, and is asked
        once more then.
        """


def outlast(call: Call, through: Outlasting) -> Caller | None:
    """Send the response of `call` to `through`, and return the caller behind it; for `admit`.

    The response passes as the caller gets it, after any translation. `drained` of the caller is to
    be set by `through`. If the caller leaves without all that it asked for, `left` decides whether
    the call goes on; `call.outcome.caller_gone` is then set by whoever knows whether somebody has
    got the response. None, and nothing is changed, if a part has been sent already.
    """
    reply = call._reply
    if reply.begun or reply.waiting:
        return None
    behind = reply.caller
    call._caller = reply.caller = through
    call._cancel_scope.goes_on = through.left
    return behind
