"""Responses that were held back: the call may be sent again, and then nobody sees them.

If a worker responds with one of `failover.statuses`, another worker is tried, see
gateway.pipeline.failover. If a worker rejects injected fields, the call is sent to it again without
them, and the rejection is remembered. An engine that does not know `return_token_ids` may respond
with 400 or 422 and name the field. The message alone proves nothing, because a message about a
caller's own mistake can quote the request. So the call is sent once more without the fields that
are named, and the caller gets that second response. The second response is the proof: only if it is
no error did the injection cause the first. `gateway.pipeline.readers` holds responses back.
"""

from gateway.errors import GatewayError
from gateway.headers import Headers
from gateway.wire.injection import Injection, listed


class HeldBack(GatewayError):
    """A response that was held back to its end; nothing has been sent to the caller yet."""


class WorkerRefused(HeldBack):
    """The worker responded with one of `failover.statuses`; `body` is the whole body."""

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        super().__init__(f"the worker answered {status}")
        self.status = status
        self.headers = headers
        self.body = body


class InjectionRefused(HeldBack):
    """The worker rejected the request and named `injections`."""

    def __init__(self, injections: frozenset[Injection]) -> None:
        super().__init__(f"the worker refused {listed(injections)}")
        self.injections = injections
