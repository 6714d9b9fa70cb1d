"""Let callers rate responses by the id in a header; keeps one small row per call for ever."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated

import msgspec
from starlette.routing import BaseRoute

from gateway import (
    Call,
    ControlRequest,
    Database,
    Host,
    Migration,
    Migrations,
    NotFound,
    Outcome,
    Sample,
    Value,
    hookimpl,
)

TABLE = "CREATE TABLE feedback_calls (id TEXT PRIMARY KEY, model TEXT NOT NULL, up INTEGER)"
COLUMNS = ("model", "calls", "up", "down")
THUMBS = "COALESCE(SUM(up), 0), COALESCE(SUM(1 - up), 0)"
TOTALS = f"SELECT model, COUNT(*), {THUMBS} FROM feedback_calls GROUP BY model ORDER BY model"
RATE = "UPDATE feedback_calls SET up = :up WHERE id = :id"


class Rating(msgspec.Struct, forbid_unknown_fields=True):
    up: bool


class OneRowPerCall:
    def prepare(self, db: Database, item: tuple[str, str]) -> tuple[str, str]:
        return item

    def write(self, db: Database, rows: Sequence[tuple[str, str]]) -> None:
        db.insert("INSERT INTO feedback_calls (id, model)", rows)

    def written(self, rows: Sequence[object]) -> None: ...
    def lost(self, item: object, error: Exception) -> None: ...


class Feedback:
    class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        header: Annotated[str, msgspec.Meta(pattern="^[a-z-]+$")] = "x-feedback-id"

    def __init__(self, config: Config) -> None:
        self.header, self.rows = config.header, OneRowPerCall()
        self.thumbs = Counter(up=0, down=0)

    @hookimpl
    def migrations(self) -> Migrations:
        return Migrations("feedback", (Migration("create_table", TABLE),))

    @hookimpl
    async def prepare(self, call: Call) -> None:
        call.add_header(self.header, call.trace_id)

    @hookimpl
    async def call_finished(self, call: Call, outcome: Outcome) -> None:
        if call.api and call.api.generates and outcome.complete and outcome.status < 400:
            call.store(self.rows, (call.trace_id, call.model or ""), 200)

    @hookimpl
    def routes(self, gateway: Host) -> Sequence[BaseRoute]:
        self.storage = gateway.storage
        return [
            gateway.control("/feedback", scope="monitor", GET=self.totals),
            gateway.control("/feedback/{trace_id}", scope="sessions", POST=self.rate),
        ]

    async def totals(self, request: ControlRequest) -> list[dict[str, object]]:
        rows = await self.storage.read(lambda db: list(db.select(TOTALS)))
        return [dict(zip(COLUMNS, row, strict=True)) for row in rows]

    async def rate(self, request: ControlRequest) -> Rating:
        rating = await request.json(Rating)
        row: dict[str, Value] = {"id": request.params["trace_id"], "up": rating.up}
        if not await self.storage.write(lambda db: db.execute(RATE, row)):
            raise NotFound("no complete call has this id")
        self.thumbs["up" if rating.up else "down"] += 1
        return rating

    @hookimpl
    def samples(self) -> Iterator[Sample]:
        for thumb, count in self.thumbs.items():
            yield Sample("gateway_feedback_total", "counter", count, "Ratings.", {"thumb": thumb})
