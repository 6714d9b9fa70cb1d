"""A worker that is there and refuses calls for a while, in the words of an engine that loads."""

import asyncio
import json
from time import monotonic

from support.workers.failing_worker import refusal

from gateway.testing import ScriptedConnection, ScriptedWorker, answer_of

LOADING = b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}'


class LoadingWorker:
    """While `refuses` is set, that is its answer to calls, but for those of the `well` models.

    `asked` has the times of the calls that it refused, by the field `user` of their bodies; `ran`
    has the names of the others, in order.
    """

    def __init__(self, refuses: bytes | None = refusal(503, "x-own: yes", body=LOADING)) -> None:
        self.refuses = refuses
        self.well: set[str] = set()
        self.asked: dict[str, list[float]] = {}
        self.ran: list[str] = []
        self.server = ScriptedWorker(self._serve)

    @property
    def refused(self) -> int:
        return sum(map(len, self.asked.values()))

    async def _serve(self, connection: ScriptedConnection) -> None:
        while True:
            request = await connection.read_request()
            body = json.loads(request.partition(b"\r\n\r\n")[2] or b"{}")
            name = body.get("user", "")
            if self.refuses is not None and body.get("model") not in self.well:
                self.asked.setdefault(name, []).append(monotonic())
                await connection.write(self.refuses)
            else:
                self.ran.append(name)
                await connection.write(answer_of(b"{}"))

    def loaded_after(self, seconds: float) -> None:
        """Have it take all calls once these seconds are over."""
        asyncio.get_running_loop().call_later(seconds, self.__setattr__, "refuses", None)
