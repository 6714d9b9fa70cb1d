"""After trace_capture: send every trace to a trainer's queue, here one with an HTTP interface."""

import httpx
import msgspec

from gateway import Trace, hookimpl


class SendToQueue:
    class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        url: str
        timeout: float = 10.0

    def __init__(self, config: Config) -> None:
        self.url = config.url
        self.client = httpx.Client(timeout=config.timeout)

    @hookimpl
    def trace_recorded(self, trace: Trace) -> None:
        answer = self.client.post(self.url, content=msgspec.json.encode(trace))
        answer.raise_for_status()
