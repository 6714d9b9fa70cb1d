"""Watches a gateway under load: takes samples, compares calls, sends for more or fewer callers."""

import asyncio
from pathlib import Path
from time import monotonic

import msgspec
from support.gateways.serving_process import Process

from soak.books import Books
from soak.callers import Crowd
from soak.inside import Seen
from soak.judging import SPARE, is_back
from soak.operating import Operator
from soak.parts import Part, reading
from soak.plan import Plan, Settings
from soak.sampling import Sample, metrics_of, of_process

QUIET = 20.0
"""Seconds, beside those that connections are kept, after which a gateway must have come to rest."""

SETTLING = 240.0
"""Seconds of load after which the callers stay as many: what they hold is memory, too."""


class Watch:
    """Takes samples, compares calls, and has as many callers as the plan wants."""

    def __init__(
        self,
        plan: Plan,
        process: Process,
        settings: Settings,
        operator: Operator,
        books: Books,
        callers: Part,
    ) -> None:
        self.samples: list[Sample] = []
        self.metrics: dict[str, float] = {}
        self.crowd = Crowd()
        self._plan = plan
        self._process = process
        self._settings = settings
        self._operator = operator
        self._books = books
        self._callers = callers
        self._began = monotonic()
        self._latest: Sample | None = None

    def gather(self, crowd: Crowd) -> None:
        self.crowd = crowd
        self._callers.write(crowd)

    async def sample(self) -> Sample:
        """Raises what asking a gateway raises that has no answers."""
        scraped = await self._operator.ask("GET", "/metrics")
        inside = await self._operator.ask("GET", "/soak")
        seen = msgspec.json.decode(inside.body, type=Seen)
        self._books.ended(seen.ids)
        self.metrics = dict(metrics_of(scraped.body))
        sample = of_process(
            self._process.pid,
            monotonic() - self._began,
            self._settings.database,
            self._settings.ports.values(),
        )
        sample.tasks = seen.tasks
        sample.in_flight = int(self.metrics["gateway_calls_in_flight"])
        sample.queue = int(self.metrics["gateway_queue_length"])
        sample.waiting = int(self.metrics["gateway_storage_waiting"])
        sample.callers = self.crowd.callers
        sample.calls = sum(self._books.verdicts.values())
        return sample

    async def quiet(self, before: Sample | None = None) -> Sample:
        """Once nothing is in flight and no connection to a worker is open, or QUIET is over.

        And once no more is held than there was `before`.
        """
        ends = monotonic() + self._plan.keepalive + QUIET
        while True:
            sample = await self.sample()
            back = before is None or all(is_back(before, sample, name) for name in SPARE)
            if monotonic() > ends or (back and not sample.busy and not sample.connections):
                return sample
            await asyncio.sleep(0.2)

    async def watch(self, seconds: float, file: Path | None) -> None:
        ends = monotonic() + seconds
        while monotonic() < ends:
            await asyncio.sleep(min(self._plan.sampled, max(ends - monotonic(), 0.0)))
            sample = await self.sample()
            self._keep(sample, file)
            with reading(self._settings.database) as db:
                self._books.compare(db)
            self._adapt(sample)

    def _keep(self, sample: Sample, file: Path | None) -> None:
        self.samples.append(sample)
        if file is not None:
            with file.open("ab") as written:
                written.write(msgspec.json.encode(sample) + b"\n")

    def _adapt(self, sample: Sample) -> None:
        before, self._latest = self._latest, sample
        if before is None or self._plan.rate or sample.at > self.samples[0].at + SETTLING:
            return
        busy = (sample.cpu - before.cpu) / max(sample.at - before.at, 0.1)
        least, most = self._plan.busy
        count = self.crowd.callers
        if busy < least:
            count = min(count + max(count // 8, 1), self._plan.most_callers)
        elif busy > most:
            count = max(count - max(count // 8, 1), 2)
        self.gather(Crowd(count, self._plan.idle))
