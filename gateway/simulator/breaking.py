"""Applies the faults of `faults` to responses, down to the connection and not only in the body."""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import NoReturn

import msgspec
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import CallerGone
from gateway.simulator.caller import read_body, until_gone
from gateway.simulator.config import SimulatorConfig
from gateway.simulator.faults import Fault, Faults
from gateway.simulator.input.envelopes import in_messages
from gateway.simulator.input.refusals import Refused, bad_request, crashed, overloaded

EXTENSION = "gateway.simulator"
"""Key of the connection in `scope["extensions"]`, set by the simulator's own server."""

_CONDITIONS = "gateway.simulator.conditions"
_CRASH = "gateway.simulator.crash"
_GENERATION_PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/messages",
    "/v1/responses",
    "/inference/v1/generate",
)
_BEFORE = frozenset({"hang", "reset-before", "garbage", "500", "503"})
_DURING = frozenset({"reset", "close", "truncate", "error-event"})
_GARBAGE = b"\x00\xff\x13This is not HTTP.\r\n\r\n"


class Conditions(msgspec.Struct, frozen=True):
    """How one call is generated.

    `ttft` is the time to the first token and `itl` the time between tokens, in seconds.
    `abort_after` is the number of tokens after which the call is aborted, None for no abort.
    """

    ttft: float = 0.0
    itl: float = 0.0
    abort_after: int | None = None


def conditions_of(scope: Scope) -> Conditions:
    """Return the conditions that `FaultInjector` set for this call."""
    conditions: Conditions = scope[_CONDITIONS]
    return conditions


def set_crash(scope: Scope, crash: Callable[[Refused], bytes | None]) -> None:
    """Set the function that returns the last events of this call's stream if the engine dies.

    None: the stream breaks off.
    """
    scope[_CRASH] = crash


class Broken(Exception):
    """A fault has ended this response; `connection` is False if it ended as valid HTTP."""

    def __init__(self, *, connection: bool) -> None:
        super().__init__()
        self.connection = connection


class FaultInjector:
    """ASGI middleware: applies the configured fault, or the one that a call requests.

    A call requests a fault by the header `x-sim-fault: NAME[:ARGUMENT]`; its headers `x-sim-ttft`
    and `x-sim-itl` set its own times, in seconds. `faults` may be replaced at any time and applies
    from the next call on.
    """

    def __init__(self, app: ASGIApp, config: SimulatorConfig) -> None:
        self.app = app
        self.config = config
        self._faults = config.faults
        self._met = 0

    @property
    def faults(self) -> Faults:
        return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._faults = faults
        self._met = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            fault = self._fault_of(scope)
            scope[_CONDITIONS] = self._conditions(scope, fault)
            await self._answer(fault, scope, receive, send)
        except Refused as refused:
            await refuse(_in_dialect(scope, refused), send)
        except CallerGone:
            pass
        except Broken as broken:
            if broken.connection:
                await until_gone(receive)

    async def _answer(
        self, fault: Fault | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if fault is not None and fault.name in _BEFORE:
            await read_body(receive)
            await _fail_at_once(fault, scope, receive)
        elif fault is not None and fault.name in _DURING:
            await self.app(scope, receive, _BreakingSend(fault, scope, send))
        else:
            await self.app(scope, receive, send)

    def _fault_of(self, scope: Scope) -> Fault | None:
        asked = Headers(scope=scope).get("x-sim-fault")
        if asked is not None:
            return _asked_fault(asked)
        faults = self._faults
        if not faults.everywhere and scope["path"] not in _GENERATION_PATHS:
            return None
        self._met += 1
        return faults.fault if faults.first is None or self._met <= faults.first else None

    def _conditions(self, scope: Scope, fault: Fault | None) -> Conditions:
        headers = Headers(scope=scope)
        ttft = _seconds(headers, "x-sim-ttft", self.config.ttft)
        itl = _seconds(headers, "x-sim-itl", self.config.itl)
        if fault is not None and fault.name == "slow":
            return Conditions(ttft + fault.argument, itl + fault.argument)
        if fault is not None and fault.name == "abort":
            return Conditions(ttft, itl, int(fault.argument))
        return Conditions(ttft, itl)


def _in_dialect(scope: Scope, refused: Refused) -> Refused:
    return in_messages(refused) if scope["path"].startswith("/v1/messages") else refused


def break_off(scope: Scope) -> NoReturn:
    """Close the connection in the middle of a response."""
    connection = scope.get("extensions", {}).get(EXTENSION)
    if connection is not None:
        connection["transport"].close()
    raise Broken(connection=True)


def _asked_fault(text: str) -> Fault:
    try:
        fault = Fault.parse(text)
    except ValueError as error:
        raise bad_request(f"x-sim-fault: {error}") from None
    if fault.name == "refuse":
        raise bad_request("x-sim-fault: a connection that is there cannot be refused any more")
    return fault


def _seconds(headers: Headers, name: str, default: float) -> float:
    text = headers.get(name)
    if text is None:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise bad_request(f"{name} must be seconds that are not negative, got {text!r}")
    return seconds


async def refuse(refused: Refused, send: Send) -> None:
    """Send `refused` as the response."""
    body = refused.body()
    headers = [
        (b"content-length", b"%d" % len(body)),
        (b"content-type", b"application/json"),
    ]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _fail_at_once(fault: Fault, scope: Scope, receive: Receive) -> None:
    match fault.name:
        case "500":
            raise crashed()
        case "503":
            raise overloaded()
        case "hang":
            await until_gone(receive)
            raise CallerGone
        case "reset-before":
            _reset(_transport(scope))
        case _:
            transport = _transport(scope)
            transport.write(_GARBAGE)
            transport.close()
    raise Broken(connection=True)


class _BreakingSend:
    """Forwards a response up to the point at which the fault breaks it."""

    def __init__(self, fault: Fault, scope: Scope, send: Send) -> None:
        self._fault = fault
        self._scope = scope
        self._send = send
        self._streams = False
        self._events = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._streams = _is_stream(message)
            if self._fault.name == "error-event" and not self._streams:
                await refuse(_in_dialect(self._scope, crashed()), self._send)
                raise Broken(connection=False)
            await self._send(message)
        elif not self._streams:
            await self._break_plain(message.get("body", b""))
        elif self._events >= int(self._fault.argument):
            await self._break_stream(message.get("body", b""))
        else:
            self._events += 1
            await self._send(message)

    async def _break_plain(self, body: bytes) -> None:
        transport = self._unbuffered()
        await self._pass_on(body[: len(body) // 2])
        await self._end(transport)

    async def _break_stream(self, event: bytes) -> None:
        if self._fault.name == "error-event":
            body = self._scope[_CRASH](crashed())
            if body is None:
                break_off(self._scope)
            await self._send({"type": "http.response.body", "body": body, "more_body": False})
            raise Broken(connection=False)
        transport = self._unbuffered()
        if self._fault.name != "reset":
            transport.write(b"%x\r\n" % (len(event) + 1) + event[: len(event) // 2])
        await self._end(transport)

    def _unbuffered(self) -> asyncio.Transport:
        """Return the connection, set so that `send` waits until all written bytes have left."""
        transport = _transport(self._scope)
        if transport.is_closing():
            raise CallerGone
        transport.set_write_buffer_limits(high=0)
        return transport

    async def _pass_on(self, body: bytes) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def _end(self, transport: asyncio.Transport) -> None:
        await self._pass_on(b"")
        if self._fault.name == "reset":
            _reset(transport)
        else:
            transport.close()
        raise Broken(connection=True)


def _is_stream(start: Message) -> bool:
    return any(
        name == b"content-type" and value.startswith(b"text/event-stream")
        for name, value in start.get("headers", [])
    )


def _transport(scope: Scope) -> asyncio.Transport:
    connection = scope.get("extensions", {}).get(EXTENSION)
    if connection is None:
        raise RuntimeError(
            "this fault breaks the connection, which only the simulator's own server can do: "
            "use Simulator or serve"
        )
    transport: asyncio.Transport = connection["transport"]
    return transport


def _reset(transport: asyncio.Transport) -> None:
    """End the connection with RST.

    A socket with SO_LINGER at 0 seconds sends RST when it is closed.
    """
    raw = transport.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
