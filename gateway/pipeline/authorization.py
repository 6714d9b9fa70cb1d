"""Scopes, and the models and workers that a principal is limited to.

A scope is a word that a route requires and a principal holds:

- realtime, batch, eval: model calls, under /v1 and the paths beside it. Any one of them suffices,
  and determines the source that a call is counted under.
- upload: /v1/files, /v1/uploads, and models under /upload. Batches (/v1/batches) require `batch`.
- sessions: the sessions that the same principal began, and their traces; with `sessions:all` in
  addition, all sessions.
- monitor: metrics, usage and other views of the gateway's state.
- logs: what engines print, which may hold prompts.
- admin: routes that change the gateway.

If no plugin authenticates, there are no principals and every caller may do everything.
"""

import re
from collections.abc import Sequence
from typing import get_args

from gateway.calls.call import Call
from gateway.calls.records import Principal, Source, Wanted
from gateway.errors import Forbidden
from gateway.fleet.worker import Worker
from gateway.headers import get_header
from gateway.wire.naming.forms import is_form, query_models
from gateway.wire.request import read_head

SOURCES: tuple[Source, ...] = get_args(Source)

ALL_SESSIONS = "sessions:all"

SCOPES = frozenset((*SOURCES, "upload", "monitor", "logs", "admin", "sessions", ALL_SESSIONS))
"""Scopes that the gateway and its own plugins require; other plugins may define others."""

_BEGINS_AS_JSON = re.compile(rb"[\s\0\xef\xbb\xbf\xfe\xff]*\{")
"""An object after any space and byte order mark, in any encoding of Unicode."""


def check_scopes(call: Call) -> None:
    """Check the scopes of the call's principal and set the call's source.

    Raises Forbidden if a scope is missing. Only scopes are checked: the body has not been read yet.
    """
    if call.principal is None:
        return
    scopes = call.principal.scopes
    wanted = call.scope
    if wanted is None and call.dialect is None:
        api = call.api
        wanted = None if api is None else api.scope
    if wanted is not None:
        require(call.principal, wanted)
    if "realtime" in scopes:
        return
    source = next((one for one in SOURCES if one in scopes), None)
    if source is not None:
        if not call.internal:  # of its own jobs the gateway knows better what they are
            call.source = source
    elif wanted is None:
        require(call.principal, "realtime")


def require(principal: Principal | None, scope: Wanted) -> None:
    """Raise Forbidden, naming what is wanted, if there is a principal and it lacks the scope."""
    wanted = (scope,) if isinstance(scope, str) else scope
    if principal is not None and principal.scopes.isdisjoint(wanted):
        named = " or ".join(f"`{one}`" for one in wanted)
        raise Forbidden(f"this needs a key with the scope {named}", code="missing_scope")


async def check_model(call: Call) -> None:
    """Raise Forbidden if the principal is limited to models and the call's is none of them.

    A POST of such a principal that names no model, or not clearly one, is rejected, too.
    """
    if call.principal is None or call.principal.models is None:
        return
    named = query_models(call.query)
    if call.method == "POST":
        await call.body.read()  # a long body has not been read yet
        model = call.model
        if model is None or _is_ambiguous(call) or _is_unread(call):
            raise Forbidden("this key is for certain models, and the call names none")
        named.add(model)
    for model in named - call.principal.models:
        raise Forbidden(
            f"this key is not for the model `{model[:200]}`",
            param="model",
            code="model_not_allowed",
        )


def _is_ambiguous(call: Call) -> bool:
    """Whether one reader takes the body for JSON and another for a form."""
    return _sent_as_form(call) and _BEGINS_AS_JSON.match(call.body.data or b"") is not None


def _is_unread(call: Call) -> bool:
    """Whether an engine could find a model in a body in which the gateway finds none.

    Python's `json` reads UTF-16, NaN and a byte order mark, for example.
    """
    body = call.body.readable
    if not body or _sent_as_form(call):
        return False
    return read_head(body, call.body.fields).model is None


def _sent_as_form(call: Call) -> bool:
    return is_form(get_header(call.headers, b"content-type") or b"")


def allowed_workers(call: Call, workers: Sequence[Worker]) -> Sequence[Worker]:
    """Return the workers that the call's principal may use."""
    if call.principal is None or call.principal.workers is None:
        return workers
    return [worker for worker in workers if worker.id in call.principal.workers]
