"""Carries one RPC: builds its call, dispatches it, and sends the messages as they come.

The task of the RPC sends, a second one dispatches. So a caller that leaves cancels only the first:
the call ends by its own rules and is recorded, and the task of the RPC waits for that.
"""

import asyncio
import time

from gateway import Call, CallerGone, CallError, Host
from gateway_plugins.grpc.edge.answers import Answer, Method
from gateway_plugins.grpc.edge.context import Context, Gone
from gateway_plugins.grpc.edge.judging import judge
from gateway_plugins.grpc.edge.metadata import lines_for_caller
from gateway_plugins.grpc.edge.receiver import Receiver
from gateway_plugins.grpc.edge.request import Request
from gateway_plugins.grpc.status import Code, Status, of_error

SLACK = 0.05
"""Seconds by which a deadline may be missed on the way."""

LEFT = Status(Code.CANCELLED, "the caller left", "caller_gone")
LATE = Status(Code.DEADLINE_EXCEEDED, "the caller's deadline has passed", "deadline_exceeded")
LARGE = Status(Code.RESOURCE_EXHAUSTED, "the request is too large", "body_too_large")
STALLED = Status(Code.CANCELLED, "the caller took nothing in (timeouts.idle)", "caller_stalled")


class Rpc:
    """One RPC. `sent` messages have gone out, the first `first` seconds after it began.

    Its transport cancels the task of `run` if the caller leaves, and at the caller's deadline.
    """

    def __init__(self, host: Host, method: Method, context: Context) -> None:
        self.began = time.monotonic()
        self.context = context
        self.method = method
        self.answer: Answer = method.answer(self.began)
        self.call: Call | None = None
        self.sent = 0
        self.first: float | None = None
        self._host = host
        self._receiver = Receiver(self.answer, host.config.server_limits.max_event_bytes)
        self._task = asyncio.current_task()
        self._sends = False
        self._stalled = False
        self._timer: asyncio.TimerHandle | None = None

    async def run(self) -> Status:
        """Carry the RPC; return how it ended, also if the task is cancelled."""
        request = Request(self._host, self.method, self.context, self.answer)
        try:
            call = self.call = await request.call(self._receiver)
        except (CallError, asyncio.CancelledError, Gone) as error:
            self.call = made = request.made
            if isinstance(error, CallError):
                return of_error(error, {} if made is None else {"request_id": made.id})
            return LATE if self._is_late() else LEFT
        self._receiver.watch(call)
        dispatching = asyncio.create_task(self._host.dispatch(call))
        dispatching.add_done_callback(self._over)
        try:
            await self._send_all(dispatching)
            dispatching.result()
            return await self._end(call)
        except (asyncio.CancelledError, Gone):
            if self._has_stalled():
                return STALLED
            call.cancel(CallerGone(LEFT.message))
            await asyncio.wait([dispatching])
            if request.is_absent:
                return LARGE  # the transport has told the caller
            return LATE if self._is_late() else LEFT
        except Exception:
            call.cancel(CallerGone("the gateway failed on this call"))
            await asyncio.wait([dispatching])
            raise
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def _over(self, _: object) -> None:
        """The call is over: a caller that does not read has `timeouts.idle` for what is left.

        None, if that is why the call is over.
        """
        self._receiver.wake()
        seconds = self._host.config.timeouts.idle
        if self.call is not None and self.call.outcome.caller_gone:
            self._stall()
        elif seconds is not None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._stall)

    def _stall(self) -> None:
        if self._sends and self._task is not None:
            self._stalled = True
            self._task.cancel()

    def _has_stalled(self) -> bool:
        """Whether the task was cancelled from here alone; the transport may still send a status."""
        self._sends = False
        return self._stalled and self._task is not None and not self._task.uncancel()

    def _is_late(self) -> bool:
        """Whether the caller's deadline has passed, or is so near that the caller itself ended it.

        Callers end RPCs at their own deadline, which is earlier than the one that they have sent:
        that is rounded up by up to a hundredth, and counts from when it has come.
        """
        left = self.context.seconds_left
        return left is not None and time.monotonic() - self.began >= left * 0.99 - SLACK

    async def _send_all(self, dispatching: "asyncio.Task[None]") -> None:
        """Send messages until the call is over. Raises Gone."""
        receiver, send = self._receiver, self.context.send
        while not dispatching.done():
            await receiver.changed()
            messages = receiver.take()
            self._sends = True
            if self.first is None and messages:
                await self._begin()
            for message in messages:
                await send(message)
            self._sends = False
            self.sent += len(messages)
            receiver.note_sent()

    async def _begin(self) -> None:
        self.first = time.monotonic() - self.began
        await self.context.begin(lines_for_caller(self._receiver.headers))

    async def _end(self, call: Call) -> Status:
        """Send the last messages of a response that is whole; return how the RPC ended."""
        self._sends = True
        left = self._receiver.take()
        status, last = judge(call, self._receiver, self.answer, self.sent + len(left))
        if self.first is None and (left or last):
            await self._begin()
        for message in (*left, *last):
            await self.context.send(message)
            self.sent += 1
        return status
