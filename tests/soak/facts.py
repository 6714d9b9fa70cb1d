"""What workers and callers tell of calls, a JSON line for each, as soon as it is over."""

from typing import Literal

import msgspec

Verdict = Literal["whole", "error", "broken", "left"]

Kind = Literal["answered", "refused", "unknown", "other"]
"""refused: before a worker is asked; unknown: nobody's; other: answered in a worker's place."""


class Served(msgspec.Struct, frozen=True, tag="served"):
    """What worker `worker` did with a call that reached it.

    `ran`: it has begun to generate; `told`: it has said its usage. `completion` are the tokens that
    it has sent, which may be more than the gateway had time to read.
    """

    call_id: str
    worker: str
    ran: bool
    whole: bool
    told: bool
    prompt: int
    completion: int
    cached: int


class Asked(msgspec.Struct, frozen=True, tag="asked"):
    """How a call went, as its caller saw it.

    whole: it had its answer to the end. error: it was told another status. broken: its answer broke
    off, or ended with the gateway's error. left: it had gone before. `pieces` are the events with
    text that it has read, `fault` is what is wrong with the answer that it had.
    """

    call_id: str
    key: str
    kind: Kind
    verdict: Verdict
    status: int
    code: str = ""
    session: str = ""
    pieces: int = 0
    fault: str = ""


class Deleted(msgspec.Struct, frozen=True, tag="deleted"):
    """A session that its owner has deleted."""

    session: str


class Looked(msgspec.Struct, frozen=True, tag="looked"):
    """Something else than a call was asked, at the route `what`."""

    what: str
    status: int


Fact = Served | Asked | Deleted | Looked
