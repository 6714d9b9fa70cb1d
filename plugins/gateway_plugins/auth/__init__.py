"""Identifies callers by the API keys in a file.

`keys.py` has the file's format and finds the key of a token, `watching.py` reads the file again
when it changes, `tokens.py` finds the token in a call, `slowing.py` delays callers that guess
tokens, and `commands.py` is `gateway keys`, which changes the file through `editing.py` and reads
that of another system through `importing.py`.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal, get_args

import msgspec
from msgspec import Meta

from gateway import SCOPES, Call, CallError, Host, Principal, Sample, Topic, hookimpl
from gateway_plugins.auth.keys import Fault
from gateway_plugins.auth.slowing import Slowing
from gateway_plugins.auth.tokens import token_of
from gateway_plugins.auth.watching import KeysFile

KEYS_REQUEST = Topic("auth", "keys")
"""Name under which a process requests the keys that another one has read."""

Reason = Literal["missing", "unknown", Fault]


class KeysUnavailable(CallError):
    """The keys have never been read, so no caller can be identified."""

    status = 503
    code = "keys_unavailable"
    type = "server_error"


class Auth:
    """The plugin."""

    class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
        """Path of the key file, and the seconds between two checks of the file."""

        renamed_until: ClassVar[Mapping[str, Mapping[str, str]]] = {
            "0.2": {"check": "check_interval"}
        }

        keys_file: Annotated[str, Meta(min_length=1)] = "keys.json"
        check_interval: Annotated[float, Meta(ge=0.01, le=3600)] = 1.0

    def __init__(self, config: Config) -> None:
        self.file = KeysFile(Path(config.keys_file), config.check_interval, self._known_scopes)
        self.slowing = Slowing()
        self._gateway: Host | None = None
        self._failures: Counter[Reason] = Counter()

    @hookimpl
    def reconfigure(self, config: Config) -> None:
        self.file.change(Path(config.keys_file), config.check_interval)

    @hookimpl
    @contextlib.asynccontextmanager
    async def lifespan(self, gateway: Host) -> AsyncIterator[None]:
        self._gateway = gateway
        await self.file.look()
        gateway.peers.handle(KEYS_REQUEST, self._keys_for_another)
        if self.file.keys is None:
            await self._take_from_others(gateway)
        watching = asyncio.create_task(self.file.run())
        try:
            yield
        finally:
            watching.cancel()

    async def _take_from_others(self, gateway: Host) -> None:
        """Take the keys of a process that read the file while it was valid, if there is one."""
        for data in filter(None, await gateway.peers.request(KEYS_REQUEST)):
            await self.file.adopt(data)

    async def _keys_for_another(self, _: bytes) -> bytes:
        keys = self.file.keys
        return b"" if keys is None else await asyncio.to_thread(keys.encode)

    @hookimpl
    def authenticate(self, call: Call) -> Principal | Awaitable[None] | None:
        keys = self.file.keys
        if keys is None:
            raise KeysUnavailable("the gateway cannot read its keys now; /health says so too")
        token = token_of(call.headers)
        if token is not None:
            key = keys.find(token)
        else:
            key = keys.of_certificate(call.peer_names) if call.peer_names else None
        if key is None:
            return self._failed(call, "missing" if token is None else "unknown")
        if (key.revoked or key.until is not None) and (fault := key.fault(call.created)):
            return self._failed(call, fault)
        return key.principal

    def _failed(self, call: Call, reason: Reason) -> Awaitable[None]:
        self._failures[reason] += 1
        return self.slowing.failed(call.client)

    @hookimpl
    def health(self) -> str | None:
        if self.file.trouble is None:
            return None
        meanwhile = "no call goes on" if self.file.keys is None else "the keys before still hold"
        return f"the file of keys is not good, {meanwhile}; the log says why"

    @hookimpl
    def samples(self) -> Iterator[Sample]:
        help_ = "Calls and requests without a valid key, by what was wrong with it."
        for reason in (*get_args(Literal["missing", "unknown"]), *get_args(Fault)):
            count, labels = self._failures[reason], {"reason": reason}
            yield Sample("gateway_auth_failures_total", "counter", count, help_, labels)
        help_ = "Keys in the file as it was when it was last good."
        yield Sample("gateway_auth_keys", "gauge", len(self.file.keys or ()), help_, merge="max")
        help_ = "1 while the file of keys cannot be read, or is no file of keys."
        broken = self.file.trouble is not None
        yield Sample("gateway_auth_file_broken", "gauge", int(broken), help_, merge="max")

    def _known_scopes(self) -> set[str]:
        routes = () if self._gateway is None else self._gateway.routes
        return {*SCOPES, *(str(getattr(route, "scope", None)) for route in routes)}
