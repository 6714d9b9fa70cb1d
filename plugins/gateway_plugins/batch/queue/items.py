"""An item of work: as it is submitted, as it runs, as it ended, and as it is shown."""

from typing import Literal

import msgspec

from gateway import Principal, Usage

QUEUED, RUNNING, COMPLETED, ERROR, CANCELED = range(5)
"""Values of an item's `state`."""

State = Literal["queued", "running", "completed", "error", "canceled"]

STATES: tuple[State, ...] = ("queued", "running", "completed", "error", "canceled")
"""The words for them."""

Kind = Literal["completion", "chat_completion", "job", "line", "evaluation", "other"]
"""By which door an item came: a batch completion, a job, a line of a batch file, an evaluation of
another plugin, or anything else of another plugin."""

EXPIRED = "batch_expired"
"""Code of the error of an item that was not done by its deadline."""

UNLOADABLE = "model_load_failed"
"""Code of the error of an item whose model cannot be loaded, as calls for such a model have it."""

CANCELLED = "batch_cancelled"
"""Code of the error line of an item that was cancelled with its batch."""


class Owner(msgspec.Struct, frozen=True):
    """Who submitted an item. `id` is "" if nobody authenticates callers."""

    principal: Principal | None = None

    @property
    def id(self) -> str:
        return "" if self.principal is None else self.principal.id


class NewItem(msgspec.Struct, frozen=True, kw_only=True):
    """An item to queue. `path` and `body` are those of the request that a worker will get.

    `submitted` and `deadline` are Unix seconds. `batch` is the number of the batch that `line` of
    its input file belongs to. `estimate` is the seconds that the caller says a job will take, which
    is only shown. `traceparent` is the header of this name that the item was submitted with.
    """

    id: str
    kind: Kind
    path: str
    model: str
    body: bytes
    priority: int
    submitted: float
    deadline: float
    batch: int | None = None
    line: int | None = None
    custom_id: str | None = None
    estimate: float | None = None
    traceparent: str | None = None


class Claimed(msgspec.Struct, frozen=True):
    """An item that this process runs. `body` is packed, `principal` is the JSON of a Principal.

    `holder` is the number of this process as it claimed the item. `attempt` counts the calls for
    it, this one included; `charged` those before that count.
    """

    number: int
    id: str
    lane: int
    kind: Kind
    path: str
    model: str
    batch: int | None
    holder: int
    attempt: int
    charged: int
    deadline: float
    principal: str | None
    body: bytes
    traceparent: str | None = None

    @property
    def running(self) -> "Running":
        return Running(self.number, self.holder, self.attempt, self.charged)


class Running(msgspec.Struct, frozen=True):
    """What identifies an attempt at an item, and how many were charged before."""

    number: int
    holder: int
    attempt: int
    charged: int


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How a call for an item ended: `state` is COMPLETED, ERROR, or QUEUED if it is to run again.

    `answer` is the body of the response, None if there is none. `error` is an ItemError as JSON.
    `due` is when it may run again; `counts`: against `max_attempts`. `refills` are the models
    of which another item gets its place in the same transaction, none: any; None: no other item.
    """

    item: Claimed
    state: int
    at: float
    status: int | None = None
    answer: bytes | None = None
    error: str | None = None
    request_id: str | None = None
    due: float = 0.0
    counts: bool = True
    expires: float | None = None
    usage: Usage | None = None
    refills: frozenset[str] | None = None


class ItemError(msgspec.Struct, frozen=True):
    """Why an item failed, or was queued again. `code` is a word, `message` is for people."""

    code: str
    message: str


class Item(msgspec.Struct, kw_only=True):
    """An item as it is stored now, without its request and response."""

    number: int
    id: str
    owner: str
    model: str
    priority: int
    kind: Kind
    path: str
    batch: int | None
    line: int | None
    custom_id: str | None
    estimate: float | None
    state: int
    submitted: float
    due: float
    deadline: float
    attempts: int
    charged: int
    started: float | None
    finished: float | None
    expires: float | None
    status: int | None
    error: str | None
    request_id: str | None

    @property
    def is_over(self) -> bool:
        return self.state >= COMPLETED

    @property
    def last_error(self) -> ItemError | None:
        """Why the latest attempt failed."""
        return None if self.error is None else error_of(self.error)


def error_of(text: str) -> ItemError:
    """Return the ItemError that is stored as `text`, or one that repeats a damaged text."""
    try:
        return msgspec.json.decode(text, type=ItemError)
    except (msgspec.MsgspecError, UnicodeError):
        return ItemError("unreadable", text)
