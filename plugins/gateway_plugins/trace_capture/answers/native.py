"""Has the kernel read a response, which costs a fraction of the Python code beside it."""

from itertools import starmap

import msgspec

from gateway import Kernel
from gateway_plugins.trace_capture.answers import metadata
from gateway_plugins.trace_capture.answers.assembled import Assembled, Part

_decode = msgspec.json.Decoder().decode


def read(kernel: Kernel, body: bytes, *, chat: bool, streamed: bool) -> Assembled | None:
    """Return the record of a response of chat or completions; None if the kernel leaves it."""
    found = kernel.functions.read_answer(body, chat, streamed)
    if found is None:
        kernel.fallbacks["record"] += 1
        return None
    skeleton, response_id, model, parts, usage, prompt, completion, stamped, done, events, sure = (
        found
    )
    record = Assembled(
        skeleton=skeleton,
        response_id=response_id,
        model=model,
        parts=list(starmap(Part, parts)),
        usage=None if usage is None else _decode(usage),
        prompt_tokens=prompt,
        completion_tokens=completion,
        streamed=streamed,
        done=done,
        events=events,
    )
    if not sure:
        metadata.with_usage(record, record.usage)
    if stamped is not None:
        told = _decode(stamped)
        record.weight_version = metadata.weight_version(told)
        record.versions_named = metadata.versions_named(told)
    return record
