"""HTTP routes for trainers: sessions, traces, trajectories, rewards and weight versions."""

from functools import partial

from starlette.routing import BaseRoute

from gateway import (
    Host,
)
from gateway_plugins.trace_capture.http.admin import AdminRoutes
from gateway_plugins.trace_capture.http.sessions import Capturing, SessionRoutes
from gateway_plugins.trace_capture.http.traces import TraceRoutes


def capture_routes(gateway: Host, capture: Capturing) -> list[BaseRoute]:
    """Return the routes of the plugin; more specific paths come first."""
    control = partial(gateway.control, scope="sessions")
    of_sessions, of_traces = SessionRoutes(gateway, capture), TraceRoutes(gateway)
    admin = AdminRoutes(gateway, capture)
    return [
        control("/sessions", GET=of_sessions.list_all, POST=of_sessions.create),
        control("/sessions/batch_delete", POST=of_sessions.delete_many),
        control("/sessions/{session_id}/traces", GET=of_traces.of_session),
        control("/sessions/{session_id}/trajectories", GET=of_traces.trajectories),
        control("/sessions/{session_id}/rewards", GET=of_sessions.rewards, POST=of_sessions.reward),
        control("/sessions/{session_id}", GET=of_sessions.get, DELETE=of_sessions.delete),
        control("/traces/query", POST=of_traces.query),
        control("/traces/{trace_id}", GET=of_traces.get),
        control("/admin/flush", POST=admin.flush),
        gateway.control(
            "/admin/weight_version",
            scope="admin",
            GET=admin.weight_version,
            POST=admin.set_weight_version,
        ),
    ]
