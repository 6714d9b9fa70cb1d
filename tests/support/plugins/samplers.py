"""A plugin that takes part in traces as the caller asks for."""

from gateway import Call, TraceContext, hookimpl


class Sampler:
    """Records the spans of a call with `x-records: yes`, and not with `no`; else takes no part."""

    def __init__(self) -> None:
        self.contexts: list[TraceContext] = []

    @hookimpl
    def sample_trace(self, call: Call, context: TraceContext) -> bool | None:
        self.contexts.append(context)
        return {"yes": True, "no": False}.get(call.header("x-records") or "")


def header_of(request: bytes, name: bytes) -> str | None:
    """Return the value of a header of a raw request; None if it is not there exactly once."""
    lines = request.partition(b"\r\n\r\n")[0].split(b"\r\n")
    found = [value for key, _, value in (line.partition(b": ") for line in lines) if key == name]
    return found[0].decode() if len(found) == 1 else None
