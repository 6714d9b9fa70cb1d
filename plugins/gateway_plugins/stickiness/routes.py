"""GET /admin/route: which worker a key leads to now, and why."""

from collections.abc import Callable

import msgspec

from gateway import BadRequest, NotFound, Worker
from gateway_plugins.stickiness.keys import Key
from gateway_plugins.stickiness.policies import Policy, Preview
from gateway_plugins.stickiness.views import View

MAX_CANDIDATES = 8
"""Maximum number of workers in a response."""


class RouteQuery(msgspec.Struct, forbid_unknown_fields=True):
    """One key, and the model if workers serve different ones.

    `key` is the value of a key of `kind` (a session by default), as an earlier response named them;
    `prompt` is text that a call begins with.
    """

    key: str | None = None
    kind: str = "session"
    session: str | None = None
    header: str | None = None
    prompt: str | None = None
    model: str | None = None


class Candidate(msgspec.Struct):
    """A worker that may be chosen. `skipped` is the reason why it is skipped.

    `bound` is the number of attempts in flight from which on it is skipped.
    """

    worker_id: str
    fit: bool
    state: str
    in_flight: int
    bound: float | None
    skipped: str | None


class Route(msgspec.Struct):
    """Worker for a call with this key now.

    `chosen` is None if the key does not determine the worker, or if no worker is fit. `hash` is the
    key's place on the ring, in hexadecimal; `candidates` are the first workers in the key's order.
    """

    policy: str
    kind: str
    key: str
    hash: str
    candidates: list[Candidate]
    chosen: str | None
    why: str


def key_of(query: RouteQuery, prefix_of: Callable[[str], Key | None]) -> Key:
    """Return the key in a query. Raises BadRequest if the query names no key, or several."""
    given = [
        Key(query.kind, query.key) if query.key else None,
        Key("session", query.session) if query.session else None,
        Key("header", query.header) if query.header else None,
        prefix_of(query.prompt) if query.prompt else None,
    ]
    found = [key for key in given if key is not None]
    if len(found) != 1:
        raise BadRequest(
            "name one key: ?session=, ?header= (its value), ?prompt= (how it begins), or ?key= with"
            " its &kind=",
            param="key",
        )
    return found[0]


def explain(policy: Policy, name: str, view: View, key: Key) -> Route:
    """Explain the choice for a key. Raises NotFound if no worker serves the model."""
    if not view.all:
        raise NotFound("there is no worker for it; GET /admin/workers lists those that there are")
    preview = policy.preview(view, key.point())
    return Route(
        policy=name,
        kind=key.kind,
        key=key.value,
        hash=f"{key.point():016x}",
        candidates=_candidates(preview),
        chosen=None if preview.chosen is None else preview.chosen.id,
        why=preview.why if view.fit else "no worker is fit",
    )


def _candidates(preview: Preview) -> list[Candidate]:
    found = []
    passed_by = preview.chosen is not None
    for worker in preview.asked[:MAX_CANDIDATES]:
        passed_by = passed_by and worker is not preview.chosen
        found.append(_candidate(worker, preview.bound, passed_by=passed_by))
    return found


def _candidate(worker: Worker, bound: float | None, *, passed_by: bool) -> Candidate:
    bound = None if bound is None else round(bound * worker.weight, 2)
    skipped = None
    if not worker.fit:
        skipped = "it is not fit"
    elif passed_by:
        skipped = "it has as many in flight as its bound allows"
    return Candidate(
        worker_id=worker.id,
        fit=worker.fit,
        state=worker.info().state,
        in_flight=worker.in_flight,
        bound=bound,
        skipped=skipped,
    )
