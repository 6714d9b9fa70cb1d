"""Who may do what: scopes, and the models and workers that a principal is bound to.

A scope is a word that a route asks for and a principal has:

- realtime, batch, eval: the calls of models, under /v1 and the paths beside it. Any one of them
  does, and says what a call is counted as.
- upload: /v1/files. Batches under /v1/batches ask for `batch`.
- sessions: sessions and their traces, those that the same principal has begun; `sessions:all` with
  it: all of them.
- monitor: metrics, usage and other views of how the gateway is.
- admin: what changes it.

Where no plugin authenticates there are no principals, and everybody may do everything.
"""

from collections.abc import Sequence
from typing import get_args
from urllib.parse import unquote

from gateway.call import Call, Principal, Source
from gateway.errors import Forbidden
from gateway.worker import Worker

SOURCES: tuple[Source, ...] = get_args(Source)

ALL_SESSIONS = "sessions:all"

SCOPES = frozenset((*SOURCES, "upload", "monitor", "admin", "sessions", ALL_SESSIONS))
"""Those that the gateway and its own plugins ask for; other plugins may have others."""

_UNDER = {"files": "upload", "uploads": "upload", "batches": "batch"}


def permit(call: Call) -> None:
    """Find out what the call is counted as. Raises Forbidden where its principal may not make it.

    The scopes alone are looked at: nothing of the body is known as yet.
    """
    if call.principal is None:
        return
    scopes = call.principal.scopes
    wanted = call.scope
    if wanted is None and call.dialect is None:
        wanted = _scope_under(call.path)
    if wanted is not None:
        require(call.principal, wanted)
    if "realtime" in scopes:
        return
    source = next((one for one in SOURCES if one in scopes), None)
    if source is not None:
        call.source = source
    elif wanted is None:
        require(call.principal, "realtime")


def _scope_under(path: str) -> str | None:
    """What a path under /v1 asks for beside the calls of models."""
    if not path.startswith("/v1/"):
        return None
    return _UNDER.get(unquote(path).split("/", 3)[2])  # as the worker reads it


def require(principal: Principal | None, scope: str) -> None:
    """Raises Forbidden, which names the scope, where there is a principal and it has it not."""
    if principal is not None and scope not in principal.scopes:
        raise Forbidden(f"this needs a key with the scope `{scope}`", code="missing_scope")


async def check_model(call: Call) -> None:
    """Raises Forbidden where the call's principal is bound to other models than it asks for."""
    if call.principal is None or call.principal.models is None or call.method != "POST":
        return
    await call.body.read()  # where it is long, nobody has yet
    model = call.model
    if model is None:
        raise Forbidden("this key is for certain models, and the call names none")
    if model not in call.principal.models:
        raise Forbidden(
            f"this key is not for the model `{model[:200]}`",
            param="model",
            code="model_not_allowed",
        )


def allowed(call: Call, workers: Sequence[Worker]) -> Sequence[Worker]:
    """Those of the workers that the call's principal may use."""
    if call.principal is None or call.principal.workers is None:
        return workers
    return [worker for worker in workers if worker.id in call.principal.workers]
