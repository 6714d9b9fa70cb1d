"""A plugin that takes part in traces as the caller asks for."""

import msgspec

from gateway import Call, TraceContext, hookimpl


class Sampler:
    """Records the spans of a call with `x-records: yes`, and not with `no`; else takes no part."""

    def __init__(self) -> None:
        self.contexts: list[TraceContext] = []

    @hookimpl
    def sample_trace(self, call: Call, context: TraceContext) -> bool | None:
        self.contexts.append(context)
        return {"yes": True, "no": False}.get(call.header("x-records") or "")


class Share:
    """Records the spans of a share of the calls; `seen` has its hooks, each with the call's id."""

    class Config(msgspec.Struct, frozen=True):
        ratio: float = 0.0

    def __init__(self, config: Config) -> None:
        self._ratio = config.ratio
        self.seen: list[tuple[str, str]] = []

    @hookimpl
    def trace_ratio(self) -> float:
        return self._ratio

    @hookimpl
    def observe(self, call: Call) -> None:
        self.seen.append(("observe", call.id))

    @hookimpl
    def attempt_finished(self, call: Call) -> None:
        self.seen.append(("attempt_finished", call.id))

    @hookimpl
    def call_finished(self, call: Call) -> None:
        self.seen.append(("call_finished", call.id))


class Shifting(Share):
    """Takes another share as it is, but not that of all calls."""

    @hookimpl
    def reconfigure(self, config: Share.Config) -> None:
        self._ratio = config.ratio if config.ratio < 1 else 7


class Contexts:
    """Keeps the distributed trace of each call at its end."""

    def __init__(self) -> None:
        self.contexts: list[TraceContext | None] = []

    @hookimpl
    def call_finished(self, call: Call) -> None:
        self.contexts.append(call.distributed_trace)


def header_of(request: bytes, name: bytes) -> str | None:
    """Return the value of a header of a raw request; None if it is not there exactly once."""
    lines = request.partition(b"\r\n\r\n")[0].split(b"\r\n")
    found = [value for key, _, value in (line.partition(b": ") for line in lines) if key == name]
    return found[0].decode() if len(found) == 1 else None
