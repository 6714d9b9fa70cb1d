"""Views of a runtime for tests of the policy; the realtime model is "chat"."""

from collections.abc import Mapping
from types import MappingProxyType

from gateway_plugins.runtime.options import Rules
from gateway_plugins.runtime.policy.policy import Policy
from gateway_plugins.runtime.policy.saved import Saved
from gateway_plugins.runtime.policy.view import Demand, Phase, View

CHAT = "chat"
DAY = 86_400.0
UNIX = 1.7e9
"""The Unix time at the monotonic time 0."""


def policy(rules: Rules | None = None, saved: Saved | None = None, now: float = 0.0) -> Policy:
    return Policy(rules or Rules(), CHAT, saved, now=now, unix=UNIX + now)


def view(
    now: float,
    model: str | None = CHAT,
    *,
    phase: Phase = "hot",
    since: float = 0.0,
    for_batch: bool = False,
    wanted: Mapping[str, Demand] = MappingProxyType({}),
    **demands: Demand,
) -> View:
    """A view at `now`; `wanted` and `demands` are joined."""
    return View(
        now=now,
        phase=phase,
        model=model,
        since=since,
        began_for_batch=for_batch,
        demands={CHAT: Demand(), **wanted, **demands},
    )


def items(count: int = 1, since: float = 0.0, priority: int = 0, load: float = 60.0) -> Demand:
    return Demand(queued=count, queued_since=since, priority=priority, load_time=load)


def calls(count: int = 1, since: float = 0.0, *, urgent: bool = False) -> Demand:
    return Demand(held=count, held_since=since, realtime_at=since, urgent=urgent)
