"""Sends a trainer's requests to all workers at once; one request at a time.

TRL's client takes only 200 for success, and sends a request again, up to three times, if the
response is 500, 502 or 503. A worker must not load one tensor twice: the ranks of the others would
wait for ever.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping

import msgspec

from gateway import (
    Answer,
    Call,
    Headers,
    NoWorker,
    UpstreamError,
    UpstreamTimeout,
    Worker,
    WorkerAnswer,
    Workers,
    get_header,
)
from gateway_plugins.weights.gate import Gate, drained
from gateway_plugins.weights.trl.fleet import Fleet, unreached
from gateway_plugins.weights.trl.options import Options
from gateway_plugins.weights.trl.paths import Step

NAMED = 32
"""Maximum number of workers of each kind that the response header names."""

UPDATING = "the weights of the workers are being updated"

TYPE = b"content-type"


class CallsInFlight(NoWorker):
    """An update cannot begin: workers are still generating."""

    code = "calls_in_flight"


class Order(msgspec.Struct, frozen=True):
    """A request as every worker gets it; `target` is the path with the query."""

    target: str
    body: bytes
    headers: Headers


class Told(msgspec.Struct):
    """Result of an order: the responses of workers that `took` it, why others `missed` it.

    `refused` has the responses of those that `missed` it and sent a response.
    """

    took: dict[Worker, WorkerAnswer]
    missed: dict[Worker, str]
    refused: dict[Worker, WorkerAnswer]

    @property
    def failed(self) -> list[Worker]:
        """Workers that missed the order and can be reached."""
        return [worker for worker in self.missed if unreached(worker) is None]


class Broadcaster:
    """Sends requests to all workers of one gateway, and records the results in `fleet`.

    The gate is closed as long as an update requires it. `versioned` is called with each worker that
    was given a version, and the version.
    """

    def __init__(
        self,
        workers: Workers,
        fleet: Fleet,
        gate: Gate,
        options: Options,
        versioned: Callable[[Worker, int | str], None],
    ) -> None:
        self.options = options
        self._workers = workers
        self._fleet = fleet
        self._gate = gate
        self._versioned = versioned
        self._turn = asyncio.Lock()
        self._running: asyncio.Task[Told] | None = None
        self._unsure: tuple[Order, Told] | None = None

    async def answer(self, call: Call, step: Step) -> Answer:
        """Carry out the request of `call`, even if its caller does not wait for the end.

        Raises CallsInFlight, and any error of reading the body.
        """
        order = await _order(call)
        await self._turn.acquire()
        self._running = asyncio.create_task(self._carry_out(order, step))
        self._running.add_done_callback(self._done)
        told = await asyncio.shield(self._running)
        answer = self._answer(told)
        if answer.status == 200:
            self._unsure = None
        return answer

    async def close(self) -> None:
        """Cancel the request that is still running."""
        if self._running is not None and not self._running.done():
            self._running.cancel()
            await asyncio.wait((self._running,))

    def _done(self, task: asyncio.Task[Told]) -> None:
        self._turn.release()
        if not task.cancelled():
            task.exception()  # the request raises it, if its caller is still there

    async def _carry_out(self, order: Order, step: Step) -> Told:
        try:
            if self._unsure is not None and self._unsure[0] == order and self._unsure[1].took:
                return await self._again(order, step, self._unsure[1])
            workers = self._fleet.reached()
            if step.quiet:
                await self._silence(workers)
            told = await self._tell(workers, order)
            self._add_who_was_away(told)
            self._fleet.note(step, told.took.keys(), told.missed)
            self._note_version(step, order, told)
            self._unsure = (order, told)
            return told
        finally:
            self._shut()

    async def _again(self, order: Order, step: Step, before: Told) -> Told:
        """Send a repeated request only to the workers that missed it.

        The trainer repeats it because it did not receive a success for `before`.
        """
        again = await self._tell(
            [one for one in self._fleet.reached() if one in before.missed], order
        )
        self._fleet.note_again(step, again.took.keys())
        self._note_version(step, order, again)
        still = {one: why for one, why in before.missed.items() if one not in again.took}
        told = Told(before.took | again.took, still | again.missed, before.refused | again.refused)
        self._unsure = (order, told)
        return told

    def _add_who_was_away(self, told: Told) -> None:
        """Add the workers that were not sent the step: they have missed it all the same.

        That includes workers that are back by now, or were added meanwhile.
        """
        for worker in self._workers.all:
            if worker not in told.took and worker not in told.missed:
                told.missed[worker] = f"it was {unreached(worker) or 'away'} at that time"

    async def _silence(self, workers: Iterable[Worker]) -> None:
        """Let no call begin, and wait until running calls end, except on paused workers."""
        self._gate.close(UPDATING, self._workers.all)
        running = [worker for worker in workers if not self._fleet.of(worker).paused]
        timeout = self.options.drain_timeout
        busy = await drained(self._workers, running, timeout)
        if busy:
            raise CallsInFlight(
                f"{len(busy)} workers have calls in flight after {timeout:g} s, and an "
                "update would end them; pause the workers first, or let the calls finish"
            )

    def _shut(self) -> None:
        """Keep the gate closed while any worker is in an update or paused; else open it."""
        occupied = self._fleet.occupied
        if occupied:
            self._gate.close(UPDATING, occupied)
        else:
            self._gate.open()

    async def _tell(self, workers: Iterable[Worker], order: Order) -> Told:
        told = Told({}, {}, {})
        await asyncio.gather(*(self._ask(worker, order, told) for worker in workers))
        return told

    async def _ask(self, worker: Worker, order: Order, told: Told) -> None:
        try:
            answer = await worker.request(
                "POST",
                order.target,
                order.body,
                headers=order.headers,
                timeout=self.options.timeout,
            )
        except (UpstreamError, UpstreamTimeout) as error:
            told.missed[worker] = f"{_path(order)}: {error.code}"
            return
        if answer.status == 200:
            told.took[worker] = answer
        else:
            told.missed[worker] = f"{_path(order)}: it answered {answer.status}"
            told.refused[worker] = answer

    def _note_version(self, step: Step, order: Order, told: Told) -> None:
        version = _version(order.body) if step.kind == "version" else None
        if version is None:
            return
        for worker in told.took:
            worker.weight_version = version
            self._versioned(worker, version)

    def _answer(self, told: Told) -> Answer:
        """Return the response for the trainer.

        The first good worker's response if the order succeeded; else an error with a status that
        the trainer understands.
        """
        order = [worker for worker in self._workers.all if worker in told.took]
        if order and not (told.failed and self.options.partial == "fail"):
            return _passed_on(told.took[order[0]], told)
        refusals = [one for one in told.refused.values() if one.status < 500]
        if refusals and not told.took:
            return _passed_on(refusals[0], told)
        return _failure(told)


class _Version(msgspec.Struct):
    new_version: int | str | None = None


def _version(body: bytes) -> int | str | None:
    try:
        return msgspec.json.decode(body, type=_Version).new_version
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


async def _order(call: Call) -> Order:
    target = f"{call.path}?{call.query.decode('latin-1')}" if call.query else call.path
    kind = get_header(call.headers, TYPE)
    headers = () if kind is None else ((TYPE, kind),)
    return Order(target, await call.body.read(), headers)


def _path(order: Order) -> str:
    return order.target.partition("?")[0]


def _passed_on(answer: WorkerAnswer, told: Told) -> Answer:
    kind = get_header(answer.headers, TYPE)
    return _whole(answer.status, kind, answer.body, _summary(told))


def _failure(told: Told) -> Answer:
    took, all_of_them = len(told.took), len(told.took) + len(told.missed)
    error = {
        "message": f"{took} of {all_of_them} workers took this; `workers` says why others did not",
        "type": "overloaded_error",
        "param": None,
        "code": "broadcast_failed",
        "workers": {worker.id: why for worker, why in _by_id(told.missed)},
    }
    body = msgspec.json.encode({"error": error})
    return _whole(503, b"application/json", body, _summary(told), (b"retry-after", b"1"))


def _whole(status: int, kind: bytes | None, body: bytes, *more: tuple[bytes, bytes]) -> Answer:
    typed = () if kind is None else ((TYPE, kind),)
    return Answer(status, [*more, *typed, (b"content-length", b"%d" % len(body))], body)


def _by_id(missed: Mapping[Worker, str]) -> list[tuple[Worker, str]]:
    return sorted(missed.items(), key=lambda item: item[0].id)


def _summary(told: Told) -> tuple[bytes, bytes]:
    text = f"ok={_named(told.took)}, failed={_named(told.missed)}"
    return (b"x-gateway-broadcast", text.encode())


def _named(workers: Iterable[Worker]) -> str:
    """Join their ids with spaces; if there are many, the first ids and the number of others."""
    ids = sorted(worker.id for worker in workers)
    more = [f"+{len(ids) - NAMED}"] if len(ids) > NAMED else []
    return " ".join(ids[:NAMED] + more)
