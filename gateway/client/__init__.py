"""GatewayClient and AsyncGatewayClient, for trainers: sessions, traces, rewards, workers.

    with GatewayClient("http://127.0.0.1:9090") as gateway:
        session_id = gateway.create_session(sampling_params={"temperature": 1.0})
        run_agent(base_url=gateway.get_session_url(session_id))
        for trajectory in gateway.trajectories(session_id).trajectories:
            train(trajectory.token_ids, trajectory.loss_mask, trajectory.logprobs)

`asks.py` and `claims.py` define the requests; the two clients only send them. `taking.py` has the
loops over claims.
"""

from gateway.client.asks import GatewayClientError
from gateway.client.awaited import AsyncGatewayClient
from gateway.client.blocking import GatewayClient
from gateway.client.claims import ClaimedTrajectory, ClaimFailure, Claims, ClaimsChanged
from gateway.control.workers import WorkersHealth

__all__ = [
    "AsyncGatewayClient",
    "ClaimFailure",
    "ClaimedTrajectory",
    "Claims",
    "ClaimsChanged",
    "GatewayClient",
    "GatewayClientError",
    "WorkersHealth",
]
