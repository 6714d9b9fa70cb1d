"""The options of the plugin `trl`."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

Seconds = Annotated[float, Meta(gt=0)]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How broadcasts are sent, and which version of the weights calls may meet.

    A worker has `timeout` seconds for a broadcast. If some workers take a broadcast and others do
    not, `partial` decides: with `quarantine` the response is that of a success, and the others get
    no calls until they have caught up; with `fail` they are kept from calls as well, but the
    response is 503, so that the trainer retries. An update waits up to `drain_timeout` seconds
    until no call runs; meanwhile up to `max_held` calls wait, each up to `max_wait` seconds, and
    the caller of a stream is sent a comment every `comment_interval` seconds (null: none).

    With a `required_version`, only workers with these weights get calls. Workers are asked for
    their version every `version_interval` seconds; a worker that reports none gets calls only with
    `unknown_version: allow`. An empty `required_version` is the same as none.
    """

    renamed_until: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "0.2": {
            "held": "max_held",
            "wait": "max_wait",
            "comments": "comment_interval",
            "drain": "drain_timeout",
        }
    }

    timeout: Seconds = 120.0
    partial: Literal["quarantine", "fail"] = "quarantine"
    drain_timeout: Seconds = 60.0
    max_held: Annotated[int, Meta(gt=0)] = 10_000
    max_wait: Seconds = 300.0
    comment_interval: Seconds | None = None
    required_version: str | None = None
    unknown_version: Literal["refuse", "allow"] = "refuse"
    version_interval: Seconds = 3.0
