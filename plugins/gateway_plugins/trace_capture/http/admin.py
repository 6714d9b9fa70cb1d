"""Routes of the weight version, and of traces that are not committed yet."""

from typing import Annotated, Protocol

import msgspec
from msgspec import Meta

from gateway import ControlRequest, Host, Topic
from gateway_plugins.trace_capture.sessions import sessions

WEIGHT_VERSION = Topic("trace_capture", "weight version")


class WeightVersion(msgspec.Struct, forbid_unknown_fields=True):
    weight_version: Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]


class VersionHolder(Protocol):
    """The part of the plugin object that calls get their weight version from."""

    weight_version: int | None


class AdminRoutes:
    """Handlers for the weight version, and for flushing traces that are not yet committed."""

    def __init__(self, gateway: Host, holder: VersionHolder) -> None:
        self._storage = gateway.storage
        self._peers = gateway.peers
        self._holder = holder

    async def weight_version(self, _: ControlRequest) -> dict[str, int | None]:
        return {"weight_version": self._holder.weight_version}

    async def set_weight_version(self, request: ControlRequest) -> dict[str, int | None]:
        version = (await request.json(WeightVersion)).weight_version
        # Set in memory before storing: calls that begin after the response must have the version.
        self._holder.weight_version = version
        await self._storage.write(lambda db: sessions.put_setting(db, "weight_version", version))
        await self._peers.request(WEIGHT_VERSION)
        return {"weight_version": version}

    async def flush(self, _: ControlRequest) -> dict[str, str]:
        await self._storage.flush()
        return {"status": "flushed"}
