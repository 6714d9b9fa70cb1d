"""HTTP routes for trainers: sessions, traces, trajectories, claims, rewards, weight versions."""

from functools import partial
from typing import Protocol

from starlette.routing import BaseRoute

from gateway import Host
from gateway_plugins.trace_capture.http.admin import AdminRoutes, VersionHolder
from gateway_plugins.trace_capture.http.fields import BATCH_DELETE
from gateway_plugins.trace_capture.http.handover import Claiming, HandoverRoutes
from gateway_plugins.trace_capture.http.sessions import SessionKeeper, SessionRoutes
from gateway_plugins.trace_capture.http.traces import TraceRoutes
from gateway_plugins.trace_capture.http.training import TrainingRoutes


class Capturing(SessionKeeper, VersionHolder, Claiming, Protocol):
    """The part of the plugin object that the routes use."""


def capture_routes(gateway: Host, capture: Capturing) -> list[BaseRoute]:
    """Return the routes of the plugin; more specific paths come first."""
    control = partial(gateway.control, scope="sessions")
    sessions, traces = SessionRoutes(gateway, capture), TraceRoutes(gateway)
    admin, handover = AdminRoutes(gateway, capture), HandoverRoutes(gateway, capture)
    return [
        control("/sessions", GET=sessions.list_all, POST=sessions.create),
        control(
            f"/sessions/{BATCH_DELETE}",
            POST=sessions.delete_many,
            GET=sessions.get,
            DELETE=sessions.delete,
        ),
        control("/sessions/{session_id}/traces", GET=traces.of_session),
        control("/sessions/{session_id}/trajectories", GET=traces.trajectories),
        control("/sessions/{session_id}/rewards", GET=sessions.rewards, POST=sessions.add_reward),
        control("/sessions/{session_id}", GET=sessions.get, DELETE=sessions.delete),
        control("/trajectories/claim", POST=handover.claim),
        control("/trajectories/ack", POST=handover.acknowledge),
        control("/trajectories/release", POST=handover.release),
        control("/trajectories/extend", POST=handover.extend),
        control("/traces/query", POST=traces.query),
        control("/traces/{trace_id}", GET=traces.get),
        control("/admin/flush", POST=admin.flush),
        gateway.control("/health/training", scope="monitor", GET=TrainingRoutes(gateway).health),
        gateway.control(
            "/admin/weight_version",
            scope="admin",
            GET=admin.weight_version,
            POST=admin.set_weight_version,
        ),
    ]
