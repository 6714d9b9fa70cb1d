"""Has a stream carried on by another worker if the one that sends it dies: request migration.

`stream.py` follows the events of a stream, and is the continuation of its call. `fit.py` says which
requests can be carried on, `requests.py` makes the request for the next worker, and `rewriting.py`
makes of that worker's events those of the stream that has begun.
"""

from collections.abc import Awaitable, Iterator
from typing import Annotated

import msgspec
from msgspec import Meta

from gateway import Attempt, Call, Outcome, Sample, StateKey, hookimpl
from gateway_plugins.request_migration.fit import APIS, unfit
from gateway_plugins.request_migration.stream import Counts, Stream, note

UNFIT = StateKey[str]("request_migration.unfit")


class RequestMigration:
    """The plugin."""

    class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
        """A stream is carried on at most `migration_limit` times."""

        migration_limit: Annotated[int, Meta(ge=0)] = 3

    def __init__(self, config: Config) -> None:
        self._limit = config.migration_limit
        self._counts = Counts()

    @hookimpl
    def reconfigure(self, config: Config) -> None:
        self._limit = config.migration_limit

    @hookimpl
    def prepare(self, call: Call) -> Awaitable[None] | None:
        api = call.api
        if not self._limit or call.method != "POST" or api is None or api.name not in APIS:
            return None
        return self._prepare(call, api.name) if call.streams else None

    async def _prepare(self, call: Call, api: str) -> None:
        if not await call.body.is_object():
            return
        reason = unfit(api, {**await call.json(), **call.overwritten})
        if reason is not None:
            call.state[UNFIT] = reason
            return
        call.continuation = Stream(call, api, self._limit, self._counts)
        await call.inject("token_ids")

    @hookimpl
    def call_finished(self, call: Call, outcome: Outcome) -> None:
        if outcome.error is None:
            return
        stream, reason = call.continuation, call.state.get(UNFIT)
        if reason is not None and any(map(_broke_off, call.attempts)):
            note(call, reason)
            self._counts.lost += 1
        elif isinstance(stream, Stream) and stream.broke:
            self._counts.lost += 1

    @hookimpl
    def samples(self) -> Iterator[Sample]:
        help_ = "Streams whose worker broke off: carried on by another one, or lost."
        for result in ("migrated", "lost"):
            count = getattr(self._counts, result)
            labels = {"result": result}
            yield Sample("gateway_request_migrations_total", "counter", count, help_, labels)


def _broke_off(attempt: Attempt) -> bool:
    return attempt.error is not None and attempt.status == 200
