"""The method `Abort`: ends a running call of the same key, in whatever process it runs."""

import msgspec

from gateway import BadRequest, Call, CallerGone, CallError, Host, Topic
from gateway_plugins.grpc.edge.context import Context, Gone
from gateway_plugins.grpc.edge.identifying import caller_of, identify
from gateway_plugins.grpc.edge.judging import ABORTED
from gateway_plugins.grpc.edge.metadata import lines_for_caller
from gateway_plugins.grpc.edge.request import read_message
from gateway_plugins.grpc.messages import Messages
from gateway_plugins.grpc.services.names import SERVICE
from gateway_plugins.grpc.status import Code, Status, of_error

NAME = f"/{SERVICE}/Abort"

TOPIC = Topic("grpc", "abort")


class Wanted(msgspec.Struct, frozen=True, array_like=True):
    """The calls to end: those of this id, and of this principal if the gateway knows principals."""

    request_id: str
    principal: str | None


class Abort:
    """Serves `Abort`; other processes of this gateway are asked too."""

    def __init__(self, host: Host, messages: Messages) -> None:
        self._host = host
        self._messages = messages
        self._response = messages.type("gateway.v1.AbortResponse")
        host.peers.handle(TOPIC, self._asked)

    async def serve(self, context: Context) -> tuple[Status, int]:
        """Serve one RPC; return how it ended, and after how many messages."""
        call = caller_of(context)
        facts = {"request_id": call.id}
        try:
            await identify(self._host, call)
            message = await read_message(self._host, context)
            found = await self._abort(self._wanted(message or b"", call))
            await context.begin(lines_for_caller([(b"x-request-id", call.id.encode())]))
            await context.send(self._response(aborted=found).SerializeToString())
        except CallError as error:
            return of_error(error, facts), 0
        except Gone:
            return Status(Code.CANCELLED, "the caller left", "caller_gone"), 0
        return Status(Code.OK, facts=facts), 1

    def _wanted(self, message: bytes, call: Call) -> Wanted:
        """Parse a request. Raises BadRequest."""
        request = self._messages.read("gateway.v1.AbortRequest", message)
        if not request.request_id:
            raise BadRequest("the request_id of the call is missing", param="request_id")
        principal = None if call.principal is None else call.principal.id
        return Wanted(request.request_id, principal)

    async def _abort(self, wanted: Wanted) -> bool:
        if self._end(wanted):
            return True
        replies = await self._host.peers.request(TOPIC, msgspec.msgpack.encode(wanted))
        return any(msgspec.msgpack.decode(reply, type=bool) for reply in replies)

    async def _asked(self, content: bytes) -> bytes:
        """Answer another process."""
        wanted = msgspec.msgpack.decode(content, type=Wanted)
        return msgspec.msgpack.encode(self._end(wanted))

    def _end(self, wanted: Wanted) -> bool:
        """End the calls of this process that are wanted; return whether there were any."""
        found = [call for call in self._host.calls_in_flight if _is(wanted, call)]
        for call in found:
            call.cancel(CallerGone(ABORTED))
        return bool(found)


def _is(wanted: Wanted, call: Call) -> bool:
    if call.id != wanted.request_id or call.internal:
        return False
    principal = None if call.principal is None else call.principal.id
    return wanted.principal is None or wanted.principal == principal
