"""Names and parts that the methods of the gateway's own service share."""

from typing import Any

from gateway_plugins.grpc.edge.context import Meta

SERVICE = "gateway.v1.GatewayService"


def meta_of(meta: Any) -> Meta:
    """Return the Meta of a CallMeta."""
    return Meta(meta.request_id, meta.trace_id, meta.session_id, meta.user_id)
