"""What is found: a check for each kind of call at each worker, with its problems."""

from typing import Literal

import msgspec

Verdict = Literal["COMPLETE", "INCOMPLETE", "FORKS", "NOT SERVED"]
"""FORKS: the traces are COMPLETE, but a turn does not begin with the tokens of the turn before.

NOT SERVED: the worker does not have the API, though it answers chats. That is no problem.
"""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """The first token at which the prompt of a turn leaves the sequence of the turn before.

    The sequence is the prompt of turn `turn` - 1 (counted from 1) and what was sampled. `at` is the
    position in both; an id is None where the sequence or the prompt has ended. `text_before`,
    `expected_after` and `found_after` are the texts of some tokens before the place and from it on.
    A text is None if the engine neither sends nor detokenises it. `tito` says why the turn was
    carried as text if `tito` is on.
    """

    turn: int
    at: int
    expected_id: int | None
    found_id: int | None
    expected_text: str | None = None
    found_text: str | None = None
    text_before: str | None = None
    expected_after: str | None = None
    found_after: str | None = None
    cause: str
    tito: str | None = None


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """`reason` is one of a trace's verdict, or one of the doctor's own: see docs/doctor.md."""

    reason: str
    what: str
    what_to_do: str
    difference: Difference | None = None


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of call at one worker. `tokens` were sampled; `note` is for people."""

    worker: str
    model: str
    kind: str
    verdict: Verdict
    tokens: int = 0
    note: str = ""
    problems: tuple[Problem, ...] = ()
