"""Sends a trainer's requests to all workers at once; one request at a time.

TRL's client takes only 200 for success, and sends a request again, up to three times, if the
response is 500, 502 or 503. A worker must not load one tensor twice: the ranks of the others would
wait for ever.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping

import msgspec

from gateway import (
    NOT_JSON,
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

MAX_NAMED = 32
"""Maximum number of workers of each kind that the response header names."""

UPDATING = "the weights of the workers are being updated"

TYPE = b"content-type"


class CallsInFlight(NoWorker):
    """An update cannot begin: workers are still generating."""

    code = "calls_in_flight"


class BroadcastRequest(msgspec.Struct, frozen=True):
    """A request as every worker gets it; `target` is the path with the query."""

    target: str
    body: bytes
    headers: Headers


class BroadcastResult(msgspec.Struct):
    """Result of a request: the responses of workers that `took` it, why others `missed` it.

    `refused` has the responses of those that `missed` it and sent a response.
    """

    took: dict[Worker, WorkerAnswer]
    missed: dict[Worker, str]
    refused: dict[Worker, WorkerAnswer]

    @property
    def failed(self) -> list[Worker]:
        """Workers that missed the request and can be reached."""
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
        self._running: asyncio.Task[BroadcastResult] | None = None
        self._unsure: tuple[BroadcastRequest, BroadcastResult] | None = None

    async def answer(self, call: Call, step: Step) -> Answer:
        """Carry out the request of `call`, even if its caller does not wait for the end.

        Raises CallsInFlight, and any error of reading the body.
        """
        request = await _request_of(call)
        await self._turn.acquire()
        self._running = asyncio.create_task(self._carry_out(request, step))
        self._running.add_done_callback(self._done)
        result = await asyncio.shield(self._running)
        answer = self._answer(result)
        if answer.status == 200:
            self._unsure = None
        return answer

    async def close(self) -> None:
        """Cancel the request that is still running."""
        if self._running is not None and not self._running.done():
            self._running.cancel()
            await asyncio.wait((self._running,))

    def _done(self, task: asyncio.Task[BroadcastResult]) -> None:
        self._turn.release()
        if not task.cancelled():
            task.exception()  # the request raises it, if its caller is still there

    async def _carry_out(self, request: BroadcastRequest, step: Step) -> BroadcastResult:
        try:
            if self._unsure is not None and self._unsure[0] == request and self._unsure[1].took:
                return await self._again(request, step, self._unsure[1])
            workers = self._fleet.reached()
            if step.quiet:
                await self._silence(workers)
            result = await self._send_all(workers, request)
            self._add_who_was_away(result)
            self._fleet.note(step, result.took.keys(), result.missed)
            self._note_version(step, request, result)
            self._unsure = (request, result)
            return result
        finally:
            self._shut()

    async def _again(
        self, request: BroadcastRequest, step: Step, before: BroadcastResult
    ) -> BroadcastResult:
        """Send a repeated request only to the workers that missed it.

        The trainer repeats it because it did not receive a success for `before`.
        """
        again = await self._send_all(
            [one for one in self._fleet.reached() if one in before.missed], request
        )
        self._fleet.note_again(step, again.took.keys())
        self._note_version(step, request, again)
        still = {one: why for one, why in before.missed.items() if one not in again.took}
        result = BroadcastResult(
            before.took | again.took, still | again.missed, before.refused | again.refused
        )
        self._unsure = (request, result)
        return result

    def _add_who_was_away(self, result: BroadcastResult) -> None:
        """Add the workers that were not sent the step: they have missed it all the same.

        That includes workers that are back by now, or were added meanwhile.
        """
        for worker in self._workers.all:
            if worker not in result.took and worker not in result.missed:
                result.missed[worker] = f"it was {unreached(worker) or 'away'} at that time"

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

    async def _send_all(
        self, workers: Iterable[Worker], request: BroadcastRequest
    ) -> BroadcastResult:
        result = BroadcastResult({}, {}, {})
        await asyncio.gather(*(self._send(worker, request, result) for worker in workers))
        return result

    async def _send(
        self, worker: Worker, request: BroadcastRequest, result: BroadcastResult
    ) -> None:
        try:
            answer = await worker.request(
                "POST",
                request.target,
                request.body,
                headers=request.headers,
                timeout=self.options.timeout,
            )
        except (UpstreamError, UpstreamTimeout) as error:
            result.missed[worker] = f"{_path(request)}: {error.code}"
            return
        if answer.status == 200:
            result.took[worker] = answer
        else:
            result.missed[worker] = f"{_path(request)}: it answered {answer.status}"
            result.refused[worker] = answer

    def _note_version(self, step: Step, request: BroadcastRequest, result: BroadcastResult) -> None:
        version = _version(request.body) if step.kind == "version" else None
        if version is None:
            return
        for worker in result.took:
            worker.weight_version = version
            self._versioned(worker, version)

    def _answer(self, result: BroadcastResult) -> Answer:
        """Return the response for the trainer.

        The first good worker's response if the request succeeded; else an error with a status that
        the trainer understands.
        """
        took = [worker for worker in self._workers.all if worker in result.took]
        if took and not (result.failed and self.options.partial == "fail"):
            return _passed_on(result.took[took[0]], result)
        refusals = [one for one in result.refused.values() if one.status < 500]
        if refusals and not result.took:
            return _passed_on(refusals[0], result)
        return _failure(result)


class _Version(msgspec.Struct):
    new_version: int | str | None = None


def _version(body: bytes) -> int | str | None:
    try:
        return msgspec.json.decode(body, type=_Version).new_version
    except NOT_JSON:
        return None


async def _request_of(call: Call) -> BroadcastRequest:
    target = f"{call.path}?{call.query.decode('latin-1')}" if call.query else call.path
    kind = get_header(call.headers, TYPE)
    headers = () if kind is None else ((TYPE, kind),)
    return BroadcastRequest(target, await call.body.read(), headers)


def _path(request: BroadcastRequest) -> str:
    return request.target.partition("?")[0]


def _passed_on(answer: WorkerAnswer, result: BroadcastResult) -> Answer:
    kind = get_header(answer.headers, TYPE)
    return _whole(answer.status, kind, answer.body, _summary(result))


def _failure(result: BroadcastResult) -> Answer:
    took, all_of_them = len(result.took), len(result.took) + len(result.missed)
    error = {
        "message": f"{took} of {all_of_them} workers took this; `workers` says why others did not",
        "type": "overloaded_error",
        "param": None,
        "code": "broadcast_failed",
        "workers": {worker.id: why for worker, why in _by_id(result.missed)},
    }
    body = msgspec.json.encode({"error": error})
    return _whole(503, b"application/json", body, _summary(result), (b"retry-after", b"1"))


def _whole(status: int, kind: bytes | None, body: bytes, *more: tuple[bytes, bytes]) -> Answer:
    typed = () if kind is None else ((TYPE, kind),)
    return Answer(status, [*more, *typed, (b"content-length", b"%d" % len(body))], body)


def _by_id(missed: Mapping[Worker, str]) -> list[tuple[Worker, str]]:
    return sorted(missed.items(), key=lambda item: item[0].id)


def _summary(result: BroadcastResult) -> tuple[bytes, bytes]:
    text = f"ok={_named(result.took)}, failed={_named(result.missed)}"
    return (b"x-gateway-broadcast", text.encode())


def _named(workers: Iterable[Worker]) -> str:
    """Join their ids with spaces; if there are many, the first ids and the number of others."""
    ids = sorted(worker.id for worker in workers)
    more = [f"+{len(ids) - MAX_NAMED}"] if len(ids) > MAX_NAMED else []
    return " ".join(ids[:MAX_NAMED] + more)
