"""Routes by which trainers claim trajectories, and say what became of them."""

import time
from collections import Counter
from typing import Annotated, Protocol

import msgspec
from msgspec import Meta

from gateway import BadRequest, ControlRequest, Forbidden, Host
from gateway_plugins.trace_capture.handover.filters import ClaimFilter, Order, Wanted
from gateway_plugins.trace_capture.handover.queue import Ask, Handover
from gateway_plugins.trace_capture.handover.settling import Settled
from gateway_plugins.trace_capture.handover.unfolding import number_of
from gateway_plugins.trace_capture.sessions.owners import visible_owner

MAX_CLAIMS = 1_000
"""Claims that one request may make or change."""

LEASE = 300.0
"""Seconds, if a request does not say and the configuration permits as many."""

Lease = Annotated[float, Meta(gt=0)]


class NewClaim(msgspec.Struct, forbid_unknown_fields=True):
    """Up to `n` trajectories in this order, for `lease` seconds."""

    n: Annotated[int, Meta(ge=1, le=MAX_CLAIMS)] = 1
    lease: Lease | None = None
    order: Order = "age"
    filter: ClaimFilter = ClaimFilter()
    drop_stale: bool = False


class Receipts(msgspec.Struct, forbid_unknown_fields=True):
    receipts: Annotated[list[str], Meta(max_length=MAX_CLAIMS)]


class Extension(Receipts):
    lease: Lease | None = None


class Claims(msgspec.Struct):
    """`claims` are each a ClaimedTrajectory; `dropped` trajectories were stale.

    `more`: there may be more at once. `weight_version` is the current one, None if none is known.
    """

    claims: list[msgspec.Raw]
    dropped: int
    more: bool
    weight_version: int | None


class ClaimSettings(Protocol):
    @property
    def max_lease(self) -> float: ...


class Claiming(Protocol):
    """The part of the plugin object that claims need."""

    weight_version: int | None
    claim_counts: Counter[str]

    @property
    def config(self) -> ClaimSettings: ...


class HandoverRoutes:
    """Handlers for claims of trajectories."""

    def __init__(self, gateway: Host, capture: Claiming) -> None:
        self._gateway = gateway
        self._capture = capture
        self._handover = Handover(gateway.storage, capture.claim_counts)

    async def claim(self, request: ControlRequest) -> Claims:
        given, version = await request.json(NewClaim), self._version()
        wanted = Wanted(
            filter=given.filter,
            owner=_owner(request, given.filter),
            min_version=_min_version(given.filter, version),
            now=time.time(),
            order=given.order,
        )
        if given.drop_stale and wanted.min_version is None:
            raise BadRequest(
                "drop_stale needs min_weight_version or max_staleness in the filter",
                param="drop_stale",
            )
        seconds = self._seconds(given.lease)
        found = await self._handover.claim(Ask(wanted, given.n, seconds, given.drop_stale))
        return Claims(found.claims, found.stale, found.more, version)

    async def acknowledge(self, request: ControlRequest) -> Settled:
        receipts = (await request.json(Receipts)).receipts
        return await self._handover.acknowledge(receipts, visible_owner(request))

    async def release(self, request: ControlRequest) -> Settled:
        receipts = (await request.json(Receipts)).receipts
        return await self._handover.release(receipts, visible_owner(request))

    async def extend(self, request: ControlRequest) -> Settled:
        given = await request.json(Extension)
        seconds = self._seconds(given.lease)
        return await self._handover.extend(given.receipts, visible_owner(request), seconds)

    def _seconds(self, lease: float | None) -> float:
        """Return for how long a claim holds. Raises BadRequest if that is too long."""
        most = self._capture.config.max_lease
        if lease is not None and lease > most:
            raise BadRequest(
                f"a lease is at most {most:g} s (max_lease of trace_capture); extend it in time",
                param="lease",
            )
        return min(LEASE, most) if lease is None else lease

    def _version(self) -> int | None:
        """Return the highest weight version that was set, or that a worker has."""
        told = [self._capture.weight_version]
        told += [number_of(worker.weight_version) for worker in self._gateway.workers.all]
        return max((one for one in told if one is not None), default=None)


def _owner(request: ControlRequest, filter_: ClaimFilter) -> str | None:
    """Return whose sessions are wanted. Raises Forbidden if the request must not see them."""
    owner = visible_owner(request)
    if owner is not None and filter_.principal not in (None, owner):
        raise Forbidden(
            "this key may claim trajectories of its own sessions only; leave out principal",
            param="filter.principal",
        )
    return owner if filter_.principal is None else filter_.principal


def _min_version(filter_: ClaimFilter, version: int | None) -> int | None:
    """Return the lowest version that is wanted. Raises BadRequest if that cannot be known."""
    if filter_.max_staleness is None:
        return filter_.min_weight_version
    if version is None:
        raise BadRequest(
            "max_staleness needs a current weight version, and none is known: set it by"
            " POST /admin/weight_version, or give min_weight_version",
            param="filter.max_staleness",
        )
    found = version - filter_.max_staleness
    return found if filter_.min_weight_version is None else max(found, filter_.min_weight_version)
